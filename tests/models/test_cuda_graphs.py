"""Functions that a GPU replays. Without a GPU, a fake with the rules of CUDA graphs replaces them: a recording does not
run, a replay runs no Python, tensors keep their memory, and no number is copied from the GPU."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aihf_control.learning.replay import Batch
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.models import cuda_graphs as graphs
from aihf_control.models import kernel
from aihf_control.models.cuda_graphs import WARMUP_RUNS, GraphRunner
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Policy

aten = torch.ops.aten
REFUSED = (aten._local_scalar_dense.default, aten.lift_fresh.default)  # copy a number from the GPU, or to it
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Tape(TorchDispatchMode):
    """Records the operations of torch inside a block, with the tensors that they read and return."""

    def __init__(self):
        super().__init__()
        self.done, self.before, self.own = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in REFUSED, f"a recording does not allow {func}"
        for x in tensors((args, kwargs)):
            if memory(x) not in self.own and memory(x) not in self.before:
                self.before[memory(x)] = x, x.untyped_storage().clone()
        results = func(*args, **(kwargs or {}))
        self.own |= {memory(x) for x in tensors(results)} - self.before.keys()
        self.done.append((func, args, kwargs or {}, results))
        return results

    def undo(self) -> None:
        for x, storage in self.before.values():
            x.untyped_storage().copy_(storage)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self.done:
            for x, new in zip(tensors(results), tensors(func(*args, **kwargs)), strict=True):
                if x.data_ptr() != new.data_ptr():
                    x.copy_(new)


def tensors(tree) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def record(work: Callable) -> tuple:
    tape = Tape()
    with tape:
        result = work()
    tape.undo()
    return result, tape.replay


@pytest.fixture
def recorded(monkeypatch) -> None:
    """Replay functions on the CPU, by the fake."""
    monkeypatch.setattr(kernel, "library", lambda products: None)
    monkeypatch.setattr(graphs, "uses_graphs", lambda x: True)
    monkeypatch.setattr(graphs, "run_on_side_stream", lambda function: function())
    monkeypatch.setattr(graphs, "record", record)


def learner(alpha: tuple[float, ...], prior: bool, device: str = "cpu") -> SAC:
    """Create a SAC whose actor is frozen for the first five updates."""
    dims = Dims((0, 1), 4, 2, device=torch.device(device))
    cfg = SACConfig(hidden=(8, 8), lr=3e-3, alpha=alpha, alpha_fade=3.0, hold=5, tau=0.1, average=0.1)
    return SAC(dims, cfg, prior=Policy(dims, (8,)) if prior else None)


def batches(dims: Dims, n: int) -> list[Batch]:
    rng = Random(dims, "test")
    index = torch.zeros(2, 16, dtype=torch.long, device=dims.device)
    return [Batch(*(rng.normal(16, k) for k in (4, 2, 4)), (rng.uniform(16) < 0.2).float(), index) for _ in range(n)]


def reward(obs: Tensor, act: Tensor) -> Tensor:
    return obs[..., 0] - act[..., 0]


def numbers(sac: SAC) -> list[Tensor]:
    return [x.clone() for x in tensors(sac.state_dict())]


@pytest.mark.parametrize(("alpha", "prior"), [((), False), ((0.1, 0.3), False), ((0.1,), True)])
def test_replayed_updates_equal_updates(monkeypatch, recorded, alpha, prior):
    """State and metrics are equal, through the updates with a frozen actor and those after them."""
    replayed, ran = learner(alpha, prior), 0

    def count(*inputs, update=replayed._update, **constants):
        nonlocal ran
        ran += 1
        return update(*inputs, **constants)

    monkeypatch.setattr(replayed, "_update", count)
    metrics = [replayed.update(b, reward, absorbing=-0.5) for b in batches(replayed.dims, 12)]
    assert ran == 2 * (WARMUP_RUNS + 1)
    monkeypatch.setattr(graphs, "uses_graphs", lambda x: False)
    plain = learner(alpha, prior)
    for b, mine in zip(batches(plain.dims, 12), metrics, strict=True):
        theirs = plain.update(b, reward, absorbing=-0.5)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert all(map(torch.equal, numbers(replayed), numbers(plain)))
    assert not torch.equal(metrics[-1]["q"], metrics[-2]["q"])


def test_a_learner_with_recordings_resumes_from_a_state(recorded):
    """A recording reads tensors at their addresses, so it uses the values that are loaded into them."""
    first, second = learner((), False), learner((), False)
    early, late = batches(first.dims, 24)[:12], batches(first.dims, 24)[12:]
    for b in early:
        first.update(b, reward)
        second.update(late[0], reward)
    second.load_state_dict(first.state_dict())
    for b in late:
        first.update(b, reward)
        second.update(b, reward)
    assert all(map(torch.equal, numbers(first), numbers(second)))


def test_each_shape_and_each_constant_has_its_recording(recorded):
    ran = []

    def work(x: Tensor, plus: int) -> dict[str, Tensor]:
        ran.append((x.shape, plus))
        return {"y": x + plus}

    replayed = GraphRunner()
    for _ in range(WARMUP_RUNS + 3):
        for n in (2, 3):
            for plus in (1, 10):
                x = torch.rand(n)
                assert torch.equal(replayed(work, x, plus=plus)["y"], x + plus)
    assert len(replayed.recordings) == 4 and len(ran) == 4 * (WARMUP_RUNS + 1)


def test_a_recording_that_copies_a_number_is_refused(recorded):
    replayed = GraphRunner()
    for _ in range(WARMUP_RUNS):
        replayed(copy_a_number, torch.ones(2))
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        replayed(copy_a_number, torch.ones(2))


def copy_a_number(x: Tensor) -> dict[str, Tensor]:
    return {"y": x * float(x.sum())}


def test_a_learner_with_recordings_is_freed_without_garbage_collection(recorded):
    sac = learner((), False)
    for b in batches(sac.dims, WARMUP_RUNS + 2):
        sac.update(b, reward)
    gone = weakref.ref(sac)
    gc.disable()
    try:
        del sac
        assert gone() is None
    finally:
        gc.enable()


def test_on_the_cpu_nothing_is_recorded():
    replayed = GraphRunner()
    for k in range(6):
        assert replayed(lambda x: {"y": x + 1}, torch.tensor(k))["y"] == k + 1
    assert not replayed.recordings


@GPU
@pytest.mark.parametrize("alpha", [(), (0.1, 0.3)])
def test_replayed_updates_on_a_gpu_equal_updates(monkeypatch, alpha):
    replayed, plain = learner(alpha, False, "cuda"), learner(alpha, False, "cuda")
    given = batches(plain.dims, 12)
    metrics = [replayed.update(b, reward) for b in given]
    assert len(replayed.run_graph.recordings) == 2 and all(r.replay for r in replayed.run_graph.recordings.values())
    monkeypatch.setattr(graphs, "uses_graphs", lambda x: False)
    for b, mine in zip(given, metrics, strict=True):
        theirs = plain.update(b, reward)
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name])
    for mine, theirs in zip(replayed.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
