"""Environment steps of all lanes with the actions of a policy; rewards are discarded, except by `collect_paid`."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from torch import Tensor

from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.learning.lane_data import absorbed_share
from aihf_control.learning.replay import Buffer
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Policy

N_EPISODES = 20  # last episodes of a lane over which the share of absorbing steps is computed


class Collector:
    """One environment per lane, made at the first step, and the endings of its last episodes."""

    def __init__(self, spec: EnvSpec, dims: Dims):
        self.spec, self.dims = spec, dims
        self.rng = Random(dims, "acting")
        self.endings = [deque(maxlen=N_EPISODES) for _ in dims.seeds]
        self._envs: Envs | None = None

    def collect(self, policy: Policy, into: Buffer) -> None:
        """Step every environment once with a sampled action; store the transitions without their rewards."""
        self._step(policy, into)

    def collect_paid(self, policy: Policy, into: Buffer) -> Tensor:
        """Do the same, and return the true rewards, (L,)."""
        return self.dims.tensor(self._step(policy, into))

    def _step(self, policy: Policy, into: Buffer) -> np.ndarray:
        envs, obs = self._start()
        act = policy.act(obs[:, None], self.rng.normal(1, self.spec.n_act))[:, 0]
        next_obs, reward, terminated, truncated = envs.step(act.cpu().numpy())
        for i in np.flatnonzero(terminated | truncated).tolist():
            self.endings[i].append((int(envs.steps[i]), bool(terminated[i])))
            envs.reset(i)
        rows = self.dims.tensor(np.concatenate([next_obs, envs.last, terminated[:, None]], 1))  # one transfer to a GPU
        after, self._obs, done = rows.split((self.spec.n_obs, self.spec.n_obs, 1), 1)
        into.add(obs, act, after, done.squeeze(1))
        return reward

    def compute_absorbed(self) -> Tensor:
        """Return the share of absorbing steps, (L,), if the last episodes of each lane are padded to the horizon."""
        return self.dims.tensor([absorbed_share(endings, self.spec.horizon) for endings in self.endings])

    def _start(self) -> tuple[Envs, Tensor]:
        """Return the environments and their current observations, (L, O)."""
        if self._envs is None:
            self._envs = Envs(self.spec, self.dims.n_lanes)
            obs = [self._envs.reset(i, seed) for i, seed in enumerate(self.dims.seeds)]
            self._obs = self.dims.tensor(np.stack(obs))
        return self._envs, self._obs

    def state_dict(self) -> dict[str, Any]:
        """Return the endings and the environments' states; the random stream is saved by `TaskState`."""
        endings = [list(lane) for lane in self.endings]
        return {"endings": endings, "envs": self._envs and self._envs.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for endings, saved in zip(self.endings, state["endings"], strict=True):
            endings.extend(saved)
        if state["envs"] is not None:
            envs, _ = self._start()
            envs.load_state_dict(state["envs"])
            self._obs = self.dims.tensor(envs.last.copy())
