"""Labels by regret: a clip is the better, the less it falls short of what the expert would have got from where it was.

CPL (Hejna et al., arXiv 2310.13639) compares clips by sum gamma^t A(s_t, a_t), which telescopes to
sum gamma^t r_t + gamma^K V(s_K) - V(s_0), with V from the critic of a trained expert. No critic is bundled here, so V
is played: the simulator is put into the state, and the greedy expert goes on from there. That is exact up to the share
`CUT` of V at which the play ends, and takes hundreds of environment steps for each of a clip's two ends.
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
    """Whose value it is that actions are held against, and its discount."""

    spec: EnvSpec
    expert: Expert
    gamma: float

    def step_scores(self, pool: Sequence[Trajectory], clips: Sequence[tuple[int, int]], length: int) -> Array:
        """Discounted payments (N, K) of clips (episode, start) whose sum is that of the expert's advantages: the value
        of the state in which a clip begins is taken off its first step, that of its end is added to the last one.

        Raises BadInput where the pool has no simulator states or the environment cannot be put into them.
        """
        paid = np.stack([pool[i].padded_rewards(start, length) for i, start in clips]) * self.gamma ** np.arange(length)
        ends = {(i, t) for i, start in clips for t in (start, start + length) if t < len(pool[i]) + _alive(pool[i])}
        value = dict(zip(sorted(ends), self.values([_state(pool[i], t) for i, t in sorted(ends)]), strict=True))
        paid[:, 0] -= [value[clip] for clip in clips]
        paid[:, -1] += [self.gamma**length * value.get((i, start + length), 0.0) for i, start in clips]
        return paid

    def values(self, states: Sequence[State]) -> Array:
        """Discounted true returns (N,) of the greedy expert from each of these states; 0 after a fall."""
        envs = Envs(self.spec, min(AT_A_TIME, len(states)))
        parts = [states[i : i + AT_A_TIME] for i in range(0, len(states), AT_A_TIME)]
        return np.concatenate([self._played(envs, part) for part in parts])

    def _played(self, envs: Envs, states: Sequence[State]) -> Array:
        value = np.zeros(len(states))
        for i in range(len(states)):
            envs.reset(i, i)  # what the solver starts from is then the same in every run
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


def _alive(episode: Trajectory) -> bool:
    return not episode.terminated


def _state(episode: Trajectory, t: int) -> State:
    if episode.qpos is None or episode.qvel is None:
        raise BadInput("labels by regret need the simulator's states, which these episodes lack; use --label return")
    return episode.qpos[t], episode.qvel[t]
