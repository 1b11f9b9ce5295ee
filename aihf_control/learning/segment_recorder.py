"""Record of segments while they are played, as trajectories for annotators that watch them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import Envs

Array = np.ndarray


class SegmentRecorder:
    """Records simulator states and last observations while N segments are played, for annotators that watch."""

    def begin(self, envs: Envs, obs: Array) -> None:
        """Record the start of all segments; obs (N, O)."""
        self.states = [[envs.state(i)] for i in range(len(obs))]
        self.last, self.terminated = obs.copy(), np.zeros(len(obs), bool)

    def add(self, envs: Envs, obs: Array, which: Sequence[int], terminated: Array) -> None:
        """Record the step that the segments `which` have taken."""
        for i in which:
            self.states[i].append(envs.state(i))
        self.last[which], self.terminated[which] = obs[which], terminated

    def segments(self, obs: Array, act: Array, real: Array, rewards: Array) -> list[Trajectory]:
        """Return the segments as trajectories, given obs (N, K, O), act (N, K, A), real and rewards (N, K)."""
        return [self._segment(i, int(n), obs[i], act[i], rewards[i]) for i, n in enumerate(real.sum(1))]

    def _segment(self, i: int, n: int, obs: Array, act: Array, rewards: Array) -> Trajectory:
        rows = np.concatenate([obs[:n], self.last[i : i + 1]])
        states = [state for state in self.states[i] if state is not None]
        known = len(states) == len(self.states[i])
        qpos, qvel = (np.stack(x) for x in zip(*states, strict=True)) if known else (None, None)
        return Trajectory(rows, act[:n], rewards[:n], bool(self.terminated[i]), -1 - i, "policy", qpos, qvel)
