"""A trained policy outside of training: `predict` as in Stable-Baselines3, saved, loaded, exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aihf_control.environments import EnvSpec
from aihf_control.experts import expert_of, write_zip
from aihf_control.files import BadInput, read_tensors, write_tensors
from aihf_control.lanes import Dims
from aihf_control.nets import Policy

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
        spec = dataclasses.asdict(self.spec) | {"low": self.spec.low.tolist(), "high": self.spec.high.tolist()}
        write_tensors(Path(path), dict(self.net.state_dict()), {"kind": "policy", "spec": spec, "seeds": self.seeds})

    def export(self, path: str | Path, lane: int = 0) -> None:
        """One lane, as a zip that `stable_baselines3.SAC.load` opens."""
        write_zip(path, expert_of(self.net, lane), self.spec)


def load_policy(path: str | Path) -> TrainedPolicy:
    """A policy that `save` wrote. Raises BadInput."""
    tensors, about = read_tensors(Path(path))
    if about.get("kind") != "policy":
        raise BadInput(f"{path} is no policy of aihf_control")
    fields = about["spec"]
    spec = EnvSpec(**(fields | {"low": np.array(fields["low"]), "high": np.array(fields["high"])}))
    seeds = tuple(about["seeds"])
    return TrainedPolicy(spec, seeds, policy_from(tensors, Dims(seeds, spec.n_obs, spec.n_act)))


def policy_from(tensors: dict[str, Tensor], dims: Dims) -> Policy:
    """A frozen policy from its state."""
    n_hidden = sum(name.startswith("body.layers.") and name.endswith(".weight") for name in tensors)
    policy = Policy(dims, tuple(tensors[f"body.layers.{i}.weight"].shape[-1] for i in range(n_hidden)))
    try:
        policy.load_state_dict(tensors)
    except RuntimeError as e:
        raise BadInput(f"these are not the weights of a policy: {' '.join(str(e).split())[:200]}") from e
    return policy.requires_grad_(False)
