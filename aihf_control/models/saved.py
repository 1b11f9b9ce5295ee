"""Trained policies and rewards outside of training: asked, saved, loaded, exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import EnvSpec
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy, RewardNet
from aihf_control.models.reward_state import RewardState, rebuild, register
from aihf_control.models.sb3 import expert_of, write_zip
from aihf_control.models.tensors import read_tensors, write_tensors

Array = np.ndarray


@dataclasses.dataclass
class TrainedPolicy:
    """The policies of all lanes of a run; `predict` asks one of them."""

    spec: EnvSpec
    seeds: tuple[int, ...]
    net: Policy

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        lane: int = 0,
    ) -> tuple[Array, None]:
        """Actions in the environment's units for observations (O,) or (n, O), and None, as SB3's policies return.

        Sampled actions (deterministic=False) draw from torch's global generator. Raises BadInput for observations of
        another shape, or that are not finite.
        """
        obs = np.asarray(observation, np.float32)
        if obs.ndim not in (1, 2) or obs.shape[-1] != self.spec.n_obs:
            raise BadInput(f"observations of shape {obs.shape}; {self.spec.id} has {self.spec.n_obs} numbers in one")
        if not np.isfinite(obs).all():
            raise BadInput("observations that are not finite (NaN or infinite)")
        rows = torch.as_tensor(obs).reshape(1, -1, self.spec.n_obs).expand(len(self.seeds), -1, -1)
        noise = None if deterministic else torch.randn(*rows.shape[:2], self.spec.n_act)
        act = self.net.act(rows, noise)[lane].numpy().reshape(*obs.shape[:-1], -1)
        return self.spec.to_env(act).astype(np.float32), None

    def save(self, path: str | Path) -> None:
        """All lanes, as safetensors."""
        about = {"kind": "policy", "spec": self.spec.as_dict(), "seeds": self.seeds}
        write_tensors(Path(path), dict(self.net.state_dict()), about)

    def export(self, path: str | Path, lane: int = 0) -> None:
        """One lane, as a zip that `stable_baselines3.SAC.load` opens."""
        write_zip(path, expert_of(self.net, lane), self.spec)


def load_policy(path: str | Path) -> TrainedPolicy:
    """A policy that `save` wrote. Raises BadInput."""
    tensors, spec, about = _read(Path(path), "policy")
    seeds = tuple(about["seeds"])
    return TrainedPolicy(spec, seeds, policy_from(tensors, Dims(seeds, spec.n_obs, spec.n_act)))


def policy_from(tensors: dict[str, Tensor], dims: Dims) -> Policy:
    """A frozen policy from its state."""
    policy = Policy(dims, _hidden(tensors))
    _fill(policy, tensors)
    return policy


@dataclasses.dataclass
class TrainedReward:
    """The rewards of all lanes of a run. Called, it returns one lane's reward."""

    spec: EnvSpec
    seeds: tuple[int, ...]
    state: RewardState

    def __post_init__(self):
        self.net = rebuild(self.state, Dims(self.seeds, self.spec.n_obs, self.spec.n_act))

    def __call__(self, observation: Array, action: Array, lane: int = 0) -> Array:
        """Rewards (n,) of observations (n, O) and actions (n, A) in the environment's units."""
        obs = torch.as_tensor(np.asarray(observation, np.float32)).expand(len(self.seeds), -1, -1)
        act = torch.as_tensor(self.spec.from_env(np.asarray(action))).expand(len(self.seeds), -1, -1)
        with torch.no_grad():
            return self.net(obs, act)[lane].numpy()

    def save(self, path: str | Path) -> None:
        """All lanes, as safetensors."""
        about = {"kind": "reward", "spec": self.spec.as_dict(), "seeds": self.seeds, "reward": self.state.kind}
        write_tensors(Path(path), self.state.tensors, about | self.state.settings)


def load_reward(path: str | Path) -> TrainedReward:
    """A reward that `save` wrote. Raises BadInput."""
    tensors, spec, about = _read(Path(path), "reward")
    settings = {name: value for name, value in about.items() if name not in ("kind", "spec", "seeds", "reward")}
    return TrainedReward(spec, tuple(about["seeds"]), RewardState(about.get("reward", "network"), tensors, settings))


def _reward_net(state: RewardState, dims: Dims) -> RewardNet:
    """Build a frozen `RewardNet` from its state. Raises BadInput."""
    bound = state.settings.get("bound")
    if not isinstance(bound, int | float) or isinstance(bound, bool) or not bound > 0:
        raise BadInput(f"the reward's bound must be a number above 0, got {bound!r}")
    net = RewardNet(dims, _hidden(state.tensors), alive=0.0, bound=bound)
    _fill(net, state.tensors)
    return net


register("network", _reward_net)


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], EnvSpec, dict[str, Any]]:
    tensors, about = read_tensors(path)
    if about.get("kind") != kind or not {"spec", "seeds"} <= about.keys():
        raise BadInput(f"{path} is no {kind} of aihf_control")
    return tensors, EnvSpec.from_dict(about["spec"]), about


def _hidden(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    n = sum(name.startswith("body.layers.") and name.endswith(".weight") for name in tensors)
    return tuple(tensors[f"body.layers.{i}.weight"].shape[-1] for i in range(n))


def _fill(net: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        net.load_state_dict(tensors)
    except RuntimeError as e:
        raise BadInput(f"these weights do not fit together: {' '.join(str(e).split())[:200]}") from e
    net.requires_grad_(False)
