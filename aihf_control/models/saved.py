"""Trained policies and rewards: prediction, saving, loading and export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.config import convert, prefix_errors
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.text import count
from aihf_control.environments.gym import EnvSpec
from aihf_control.models.expert import Expert, expert_of
from aihf_control.models.export import write_onnx, write_torchscript
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy, RewardNet
from aihf_control.models.reward_state import RewardState, rebuild, register
from aihf_control.models.sb3_writer import write_zip
from aihf_control.models.tensors import read_tensors, write_tensors

Array = np.ndarray
OLD_REWARD = {"reward": "network", "settings": {}, "bound": None}  # fields that files of earlier versions lack
File = TypeVar("File", "_PolicyFile", "_RewardFile")


@dataclasses.dataclass(repr=False)
class TrainedPolicy:
    """The policies of all lanes of a run."""

    spec: EnvSpec
    seeds: tuple[int, ...]
    net: Policy

    def __repr__(self) -> str:
        return f"TrainedPolicy({_describe(self.spec, self.seeds)})"

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        lane: int = 0,
        seed: int | None = None,
    ) -> tuple[Array, None]:
        """Return actions (A,) or (n, A) in the environment's units for observations (O,) or (n, O), and None.

        The policy is that of a `seed`, or of a `lane`, by default the first. The signature is that of
        Stable-Baselines3. Sampled actions (deterministic=False) use torch's global generator.
        Raises BadInput for observations of another shape, or that are not finite, and for an unknown seed.
        """
        obs = np.asarray(observation, np.float32)
        if obs.ndim not in (1, 2) or obs.shape[-1] != self.spec.n_obs:
            raise BadInput(
                f"an observation of {self.spec.id} has {self.spec.n_obs} numbers, got an array of shape {obs.shape}"
            )
        if not np.isfinite(obs).all():
            raise BadInput("observations are not finite, got NaN or infinity")
        rows = torch.as_tensor(obs).reshape(1, -1, self.spec.n_obs).expand(len(self.seeds), -1, -1)
        noise = None if deterministic else torch.randn(*rows.shape[:2], self.spec.n_act)
        act = self.net.act(rows, noise)[self._lane(lane, seed)].numpy().reshape(*obs.shape[:-1], -1)
        return self.spec.to_env(act).astype(np.float32), None

    def save(self, path: str | Path) -> None:
        """Write all lanes to a safetensors file."""
        about = {"kind": "policy", "spec": self.spec.as_dict(), "seeds": self.seeds}
        write_tensors(Path(path), dict(self.net.state_dict()), about)

    def export(self, path: str | Path, lane: int = 0, seed: int | None = None) -> None:
        """Write the policy of a `seed`, or of a `lane`, in the format that the path's end names.

        `.zip`: for `stable_baselines3.SAC.load`. `.onnx` (needs the extra `onnx`) and `.pt` (TorchScript): a function
        from observations (n, O) to greedy actions (n, A) in the environment's units, as `predict`. Raises BadInput.
        """
        write = FORMATS.get(Path(path).suffix)
        if write is None:
            raise BadInput(f"cannot export {path}: the name must end with one of {', '.join(FORMATS)}")
        write(path, expert_of(self.net, self._lane(lane, seed)), self.spec)

    def _lane(self, lane: int, seed: int | None) -> int:
        """Return the lane of a seed, or `lane` without one."""
        if seed is None:
            return lane
        if seed not in self.seeds:
            raise BadInput(f"there is no policy of seed {seed}; known are {', '.join(map(str, self.seeds))}")
        return self.seeds.index(seed)


FORMATS: dict[str, Callable[[str | Path, Expert, EnvSpec], None]] = {
    ".zip": write_zip,
    ".onnx": write_onnx,
    ".pt": write_torchscript,
}
"""Writers of an exported policy by the end of its file's name."""


def _describe(spec: EnvSpec, seeds: tuple[int, ...]) -> str:
    listed = f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    return f"{spec.id}, {listed}, {count(spec.n_obs, 'observation')}, {count(spec.n_act, 'action')}"


def load_policy(path: str | Path) -> TrainedPolicy:
    """Read a policy that `TrainedPolicy.save` wrote. Raises BadInput."""
    tensors, spec, about = _read(Path(path), _PolicyFile)
    with prefix_errors(f"cannot read {path}"):
        return TrainedPolicy(spec, about.seeds, policy_from(tensors, Dims(about.seeds, spec.n_obs, spec.n_act)))


def policy_from(tensors: dict[str, Tensor], dims: Dims) -> Policy:
    """Build a frozen policy from its state. Raises BadInput if tensors do not fit."""
    hidden = _hidden(tensors, dims, dims.n_obs)
    mean = tensors.get("mean.weight", torch.zeros(0))
    if mean.shape != (dims.n_lanes, hidden[-1], dims.n_act):
        raise BadInput(f"the layer of the mean has shape {tuple(mean.shape)}, not that of {dims.n_act} actions")
    policy = Policy(dims, hidden)
    _fill(policy, tensors)
    return policy


@dataclasses.dataclass(repr=False)
class TrainedReward:
    """The rewards of all lanes of a run; a call returns those of one lane."""

    spec: EnvSpec
    seeds: tuple[int, ...]
    state: RewardState

    def __repr__(self) -> str:
        return f"TrainedReward({_describe(self.spec, self.seeds)})"

    def __post_init__(self):
        self.net = rebuild(self.state, Dims(self.seeds, self.spec.n_obs, self.spec.n_act))

    def __call__(self, observation: Array, action: Array, lane: int = 0) -> Array:
        """Return rewards (n,) for observations (n, O) and actions (n, A) in the environment's units."""
        obs = torch.as_tensor(np.asarray(observation, np.float32)).expand(len(self.seeds), -1, -1)
        act = torch.as_tensor(self.spec.from_env(np.asarray(action))).expand(len(self.seeds), -1, -1)
        with torch.no_grad():
            return self.net(obs, act)[lane].numpy()

    def save(self, path: str | Path) -> None:
        """Write all lanes to a safetensors file."""
        about = {"kind": "reward", "spec": self.spec.as_dict(), "seeds": self.seeds}
        about |= {"reward": self.state.kind, "settings": self.state.settings}
        write_tensors(Path(path), self.state.tensors, about)


def load_reward(path: str | Path) -> TrainedReward:
    """Read a reward that `TrainedReward.save` wrote. Raises BadInput."""
    tensors, spec, about = _read(Path(path), _RewardFile)
    settings = about.settings if about.bound is None else {"bound": about.bound}
    with prefix_errors(f"cannot read {path}"):
        return TrainedReward(spec, about.seeds, RewardState(about.reward, tensors, settings))


def _reward_net(state: RewardState, dims: Dims) -> RewardNet:
    """Build a frozen `RewardNet` from its state. Raises BadInput."""
    bound, span = state.settings.get("bound"), state.settings.get("span", 0.0)
    if not _is_number(bound) or not bound > 0:
        raise BadInput(f"bound must be a number above 0, got {bound!r}")
    if not _is_number(span) or not 0 <= span < math.inf:
        raise BadInput(f"span must be a number of at least 0, got {span!r}")
    actions = state.settings.get("actions", True)
    if not isinstance(actions, bool):
        raise BadInput(f"actions must be true or false, got {actions!r}")
    hidden = _hidden(state.tensors, dims, dims.n_obs + dims.n_act * actions)
    net = RewardNet(dims, hidden, 0.0, bound, span, actions)
    _fill(net, state.tensors)
    return net


def _is_number(x: Any) -> TypeGuard[int | float]:
    return isinstance(x, int | float) and not isinstance(x, bool)


register("network", _reward_net)


@dataclasses.dataclass(frozen=True)
class _StoredSpec:
    """The fields of an EnvSpec in a file."""

    id: str
    options: dict
    n_obs: int
    n_act: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    horizon: int

    def __post_init__(self):
        at_least_one({"n_obs": self.n_obs, "n_act": self.n_act, "horizon": self.horizon})
        low, high = np.array(self.low), np.array(self.high)
        if (
            len(low) != self.n_act
            or len(high) != self.n_act
            or not (np.isfinite([low, high]).all() and (low < high).all())
        ):
            raise BadInput(f"low and high must be finite bounds of {self.n_act} actions")


@dataclasses.dataclass(frozen=True)
class _PolicyFile:
    """The description in a file of a policy."""

    kind: Literal["policy"]
    spec: _StoredSpec
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _RewardFile:
    """The description in a file of a reward."""

    kind: Literal["reward"]
    spec: _StoredSpec
    seeds: tuple[int, ...]
    reward: str
    settings: dict
    bound: float | None
    """The only setting of files of earlier versions."""


def _read(path: Path, kind: type[File]) -> tuple[dict[str, Tensor], EnvSpec, File]:
    """Read the tensors, the environment and the description of a file. Raises BadInput."""
    tensors, about = read_tensors(path)
    given = convert(kind, (OLD_REWARD if kind is _RewardFile else {}) | about, f"cannot read {path}: its description")
    return tensors, EnvSpec.from_dict(dataclasses.asdict(given.spec)), given


def _hidden(tensors: dict[str, Tensor], dims: Dims, n_in: int) -> tuple[int, ...]:
    """Return the sizes of the hidden layers. Raises BadInput unless each layer fits the one before it.

    This is checked before a network is built, which would allocate whatever sizes a file states.
    """
    sizes: list[int] = []
    while (weight := tensors.get(f"body.layers.{len(sizes)}.weight")) is not None:
        before = sizes[-1] if sizes else n_in
        if weight.ndim != 3 or weight.shape[:2] != (dims.n_lanes, before) or not weight.numel():
            raise BadInput(f"layer {len(sizes)} has shape {tuple(weight.shape)}, not ({dims.n_lanes}, {before}, n)")
        sizes.append(weight.shape[-1])
    if not sizes:
        raise BadInput("there are no hidden layers")
    return tuple(sizes)


def _fill(net: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a network's state and freeze it. Raises BadInput if the state does not fit."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as e:
        raise BadInput(f"the weights do not fit together: {' '.join(str(e).split())[:200]}") from e
    net.requires_grad_(False)
