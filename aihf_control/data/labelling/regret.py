"""Regret of segments: how much less than a greedy policy a segment collects from its first state on.

CPL (Hejna et al., arXiv 2310.13639) compares segments by sum gamma^t A(s_t, a_t), which telescopes to
sum gamma^t r_t + gamma^K V(s_K) - V(s_0), with V from the critic of a trained expert. No critic is bundled here, so V
is simulated: the simulator is set to the state and the greedy policy acts from there. The result is exact up to the
share `CUT` of V at which the rollout stops. Each of a segment's two ends takes hundreds of environment steps, which
segments with a common end share.

The policy is that of the level that acted, without its noise. V of another policy, for instance of the expert in states
of a weaker gait, is not the value that the actions led to, and orders segments by their states.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.progress import counted
from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import Envs, EnvSpec
from aihf_control.models.expert import Expert

Array = np.ndarray
State = tuple[Array, Array]  # qpos, qvel
CUT = 0.01
AT_A_TIME = 64


@dataclasses.dataclass(frozen=True)
class Regret:
    """Policies whose advantages score segments, by level, and the discount."""

    spec: EnvSpec
    experts: dict[str, Expert]
    gamma: float
    of: str = ""
    """Level of the policy for all segments; "": the level that acted."""

    def step_scores(self, pool: Sequence[Trajectory], clips: Sequence[tuple[int, int]], length: int) -> Array:
        """Compute scores (N, K) of segments (episode, start) that sum to the discounted sum of advantages.

        The value of the first state is subtracted from the first step; the value of the last state is added to the
        last step. Raises BadInput if the pool has no simulator states or the environment cannot be set to them.
        """
        scores = np.stack([pool[i].padded_rewards(start, length) for i, start in clips]) * self.gamma ** np.arange(
            length
        )
        value = self._end_values(pool, clips, length)
        scores[:, 0] -= [value[clip] for clip in clips]
        scores[:, -1] += [self.gamma**length * value.get((i, start + length), 0.0) for i, start in clips]
        return scores

    def _end_values(
        self, pool: Sequence[Trajectory], clips: Sequence[tuple[int, int]], length: int
    ) -> dict[tuple[int, int], float]:
        """Simulate the value of each first and last state of segments, by (episode, step)."""
        ends = {(i, t) for i, start in clips for t in (start, start + length) if t <= _last_valued_step(pool[i])}
        by_level: dict[str, list[tuple[int, int]]] = {}
        for i, t in sorted(ends):
            by_level.setdefault(self.of or pool[i].level.partition("+")[0], []).append((i, t))
        values: dict[tuple[int, int], float] = {}
        for level, at in by_level.items():
            values |= zip(at, self.values([_simulator_state(pool[i], t) for i, t in at], level), strict=True)
        return values

    def values(self, states: Sequence[State], level: str) -> Array:
        """Simulate the discounted true returns (N,) of a level's greedy policy from each state; 0 after termination."""
        if level not in self.experts:
            known = ", ".join(self.experts)
            raise BadInput(f"--regret-of {level!r}: there is no policy of that level; known are {known}")
        envs = Envs(self.spec, min(AT_A_TIME, len(states)))
        parts = [states[i : i + AT_A_TIME] for i in range(0, len(states), AT_A_TIME)]
        values = []
        for i in counted(len(parts), "simulating values"):
            values.append(self._simulate(envs, self.experts[level], parts[i]))
        return np.concatenate(values)

    def _simulate(self, envs: Envs, expert: Expert, states: Sequence[State]) -> Array:
        value = np.zeros(len(states))
        for i in range(len(states)):
            envs.reset(i, i)  # gives the contact solver the same initial guess in every run
        now = np.stack([envs.put(i, *state) for i, state in enumerate(states)])
        which, discount = np.arange(len(states)), 1.0
        for _ in range(math.ceil(math.log(CUT) / math.log(self.gamma))):
            act = expert.act(torch.as_tensor(now[which])).numpy()
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
