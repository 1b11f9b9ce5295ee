"""What a method computes stays on its device: without an accelerator shown on torch's `meta` device, which has shapes
and no numbers and refuses nearly all that lies elsewhere (not an index into the CPU); with one, on it."""

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.learning.replay import Batch
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Task
from aihf_control.models import lanes
from aihf_control.models.lanes import Dims
from tests.helpers import EACH_METHOD, small_config

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Unseeded(lanes.Random):
    """Random numbers on a device that has no generators."""

    def __init__(self, dims: Dims, *purposes: str):
        self.n, self.device = len(dims.seeds) * len(purposes), dims.device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, device=self.device)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def known(name: str, number):
    """Tensor's method of this name, which on `meta` answers `number(x)`: what a device would have computed."""
    real = getattr(Tensor, name)
    return lambda x, *args: number(x) if x.is_meta else real(x, *args)


@pytest.fixture
def meta(monkeypatch) -> torch.device:
    """A device of shapes alone, whose numbers read as small ones on the CPU."""
    answers = {
        "__int__": lambda _: 5,
        "__index__": lambda _: 5,
        "__float__": lambda _: 1.0,
        "__bool__": lambda _: False,
    }
    answers["cpu"] = lambda x: torch.zeros(x.shape, dtype=x.dtype)
    answers["tolist"] = lambda x: torch.zeros(x.shape, dtype=x.dtype).tolist()
    for name, answer in answers.items():
        monkeypatch.setattr(Tensor, name, known(name, answer))
    for method in methods.names():  # a module that is first imported below would keep `Unseeded` after this test
        methods.load(method)
    real = lanes.Random
    for name, module in list(sys.modules.items()):
        if name.startswith("aihf_control") and getattr(module, "Random", None) is real:
            monkeypatch.setattr(module, "Random", Unseeded)
    return torch.device("meta")


def train(dataset, method: str, device, steps: int = 12) -> Iterator:
    """The method's first steps on a device; before the last it is restored from its own state on a disk."""
    module = methods.load(method)
    task = Task(dataset, (0, 1), 1, 20, device=device, products=torch.bfloat16)
    for k, progress in zip(range(steps + 1), module.train(task, small_config(method, steps)), strict=False):
        yield progress
        if k == steps - 1:
            for part in task.parts.values():
                part.load_state_dict(on_the_cpu(part.state_dict()))


def on_the_cpu(state):
    """As a checkpoint gives it back."""
    if isinstance(state, dict):
        return {name: on_the_cpu(x) for name, x in state.items()}
    if isinstance(state, list | tuple):
        return [on_the_cpu(x) for x in state]
    return state.cpu() if isinstance(state, Tensor) else state


def tensors_of(state) -> list[Tensor]:
    if isinstance(state, dict | list | tuple):
        return [t for x in (state.values() if isinstance(state, dict) else state) for t in tensors_of(x)]
    return [state] if isinstance(state, Tensor) else []


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_method_stays_on_its_device(dataset, meta, method, monkeypatch):
    kept = []
    monkeypatch.setattr(Task, "iterations", watched(Task.iterations, kept))
    steps = list(train(dataset, method, meta))
    assert len(steps) > 2
    for step in steps:
        assert {p.device.type for p in step.policy.parameters()} == {"meta"}
        assert {x.device.type for x in step.info.values() if isinstance(x, Tensor)} <= {"meta"}
    for part in kept:  # torch's own optimisers count their steps on the CPU
        assert {t.device.type for t in tensors_of(part.state_dict()) if t.ndim} <= {"meta"}, part


def watched(iterations, kept: list):
    def watching(self, **parts):
        kept.extend(parts.values())
        yield from iterations(self, **parts)

    return watching


def test_what_lies_elsewhere_is_refused(meta):
    """That the test above can fail: a reward that comes from the CPU ends the update."""
    dims = Dims((0, 1), 4, 2, device=meta)
    sac, x = SAC(dims, SACConfig(hidden=(8, 8))), torch.zeros(2, 16, 4, device=meta)
    batch = lanes_batch(x)
    assert sac.update(batch, lambda obs, act: obs.sum(-1))["q"].shape == (2,)
    with pytest.raises(RuntimeError, match=r"device meta|devices"):
        sac.update(batch, lambda obs, act: torch.zeros(2, 16))


def lanes_batch(obs: Tensor) -> Batch:
    done, index = obs[..., 0], torch.zeros(obs.shape[:2], dtype=torch.long, device=obs.device)
    return Batch(obs, obs[..., :2], obs, done, index)


@GPU
@pytest.mark.parametrize("method", ["aihf", "rlhf", "dpo", "bpo"])
def test_a_method_on_a_gpu_gives_finite_numbers(dataset, method):
    for step in train(dataset, method, "cuda"):
        assert {p.device.type for p in step.policy.parameters()} == {"cuda"}
        assert all(bool(p.isfinite().all()) for p in step.policy.parameters())


@GPU
def test_an_update_on_a_gpu_is_that_of_the_cpu():
    """From the same networks, batch and noise; the products are float32 in both."""
    gpu, cpu = (SAC(Dims((0, 1), 4, 2, device=torch.device(d)), SACConfig(hidden=(8, 8))) for d in ("cuda", "cpu"))
    for name in ("policy", "average", "q", "q_target"):
        getattr(gpu, name).load_state_dict(getattr(cpu, name).state_dict())
    noise = torch.randn(2, 2, 16, 2)
    for sac in (gpu, cpu):
        sac.rng.normal = lambda *_, to=sac.dims.device: noise.to(to)
    obs = torch.randn(2, 16, 4)
    infos = [
        sac.update(lanes_batch(obs.to(sac.dims.device).tanh()), lambda obs, act: obs.sum(-1)) for sac in (gpu, cpu)
    ]
    for name in infos[0]:
        torch.testing.assert_close(infos[0][name].cpu(), infos[1][name], rtol=1e-4, atol=1e-4)
    for a, b in zip(gpu.policy.parameters(), cpu.policy.parameters(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-4)
