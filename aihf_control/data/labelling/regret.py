"""Regret of segments: how much less than the greedy expert a segment collects from its first state on.

CPL (Hejna et al., arXiv 2310.13639) compares segments by sum gamma^t A(s_t, a_t), which telescopes to
sum gamma^t r_t + gamma^K V(s_K) - V(s_0), with V from the critic of a trained expert. No critic is bundled here, so V
is simulated: the simulator is set to the state and the greedy expert acts from there. The result is exact up to the
share `CUT` of V at which the rollout stops. Each of a segment's two ends takes hundreds of environment steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.models.sb3 import Expert

Array = np.ndarray
State = tuple[Array, Array]  # qpos, qvel
CUT = 0.01
AT_A_TIME = 64


@dataclasses.dataclass(frozen=True)
class Regret:
    """Reference policy whose advantages score segments, and the discount."""

    spec: EnvSpec
    expert: Expert
    gamma: float

    def step_scores(self, pool: Sequence[Trajectory], clips: Sequence[tuple[int, int]], length: int) -> Array:
        """Compute scores (N, K) of segments (episode, start) that sum to the discounted sum of expert advantages.

        The value of the first state is subtracted from the first step; the value of the last state is added to the
        last step. Raises BadInput if the pool has no simulator states or the environment cannot be set to them.
        """
        scores = np.stack([pool[i].padded_rewards(start, length) for i, start in clips]) * self.gamma ** np.arange(
            length
        )
        ends = {(i, t) for i, start in clips for t in (start, start + length) if t <= _last_valued_step(pool[i])}
        value = dict(
            zip(sorted(ends), self.values([_simulator_state(pool[i], t) for i, t in sorted(ends)]), strict=True)
        )
        scores[:, 0] -= [value[clip] for clip in clips]
        scores[:, -1] += [self.gamma**length * value.get((i, start + length), 0.0) for i, start in clips]
        return scores

    def values(self, states: Sequence[State]) -> Array:
        """Simulate the discounted true returns (N,) of the greedy expert from each state; 0 after termination."""
        envs = Envs(self.spec, min(AT_A_TIME, len(states)))
        parts = [states[i : i + AT_A_TIME] for i in range(0, len(states), AT_A_TIME)]
        return np.concatenate([self._simulate(envs, part) for part in parts])

    def _simulate(self, envs: Envs, states: Sequence[State]) -> Array:
        value = np.zeros(len(states))
        for i in range(len(states)):
            envs.reset(i, i)  # gives the contact solver the same initial guess in every run
        now = np.stack([envs.put(i, *state) for i, state in enumerate(states)])
        which, discount = np.arange(len(states)), 1.0
        for _ in range(math.ceil(math.log(CUT) / math.log(self.gamma))):
            act = self.expert.act(torch.as_tensor(now[which])).numpy()
            now[which], reward, terminated, truncated = envs.step(act, which.tolist())
            value[which] += discount * reward
            which, discount = which[~(terminated | truncated)], discount * self.gamma
            if not len(which):
                break
        return value


def _last_valued_step(episode: Trajectory) -> int:
    """Return the last step index whose state has a value; the state after a termination has none."""
    return len(episode) - episode.terminated


def _simulator_state(episode: Trajectory, t: int) -> State:
    if episode.qpos is None or episode.qvel is None:
        raise BadInput("labels by regret need the simulator's states, which these episodes lack; use --label return")
    return episode.qpos[t], episode.qvel[t]
