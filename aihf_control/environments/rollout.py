"""Rollouts of whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aihf_control.core.progress import report
from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import Envs, EnvSpec

Array = np.ndarray


def rollout(
    spec: EnvSpec, act: Callable[[Array], Array], seeds: Sequence[int], level: str = "", state: bool = False
) -> list[Trajectory]:
    """Play one episode from each seed, all at once.

    `act` maps (n, O) to (n, A) in (-1, 1), row i belonging to seeds[i]. It is also called for the rows of finished
    episodes, so that its random numbers do not depend on which episode ends first. `state` records the simulator's
    positions and velocities. Raises BadInput if the environment fails or returns numbers that are not finite.
    """
    envs, n = Envs(spec, len(seeds)), len(seeds)
    now = np.stack([envs.reset(i, seed) for i, seed in enumerate(seeds)])
    episodes = [_Recorder(seed, level, now[i], envs.state(i) if state else None) for i, seed in enumerate(seeds)]
    live = np.ones(n, bool)
    while live.any():
        report("playing episodes", int(envs.steps.max()), spec.horizon)
        a, which = act(now), np.flatnonzero(live).tolist()
        now[which], reward, terminated, truncated = envs.step(a[which], which)
        for j, i in enumerate(which):
            episodes[i].add(a[i], reward[j], now[i], envs.state(i) if state else None)
            episodes[i].terminated = bool(terminated[j])
        live[which] = ~(terminated | truncated)
    report("playing episodes", spec.horizon, spec.horizon)
    return [episode.trajectory() for episode in episodes]


class _Recorder:
    """Columns of one episode while it is played."""

    def __init__(self, seed: int, level: str, obs: Array, state: tuple[Array, Array] | None):
        self.seed, self.level, self.terminated = seed, level, False
        self.obs, self.act, self.reward, self.states = [obs.copy()], [], [], [state]

    def add(self, act: Array, reward: float, obs: Array, state: tuple[Array, Array] | None) -> None:
        self.act.append(act.astype(np.float32))
        self.reward.append(reward)
        self.obs.append(obs.copy())
        self.states.append(state)

    def trajectory(self) -> Trajectory:
        qpos, qvel = map(np.stack, zip(*self.states, strict=True)) if self.states[0] else (None, None)
        columns = np.stack(self.obs), np.stack(self.act), np.array(self.reward)
        return Trajectory(*columns, self.terminated, self.seed, self.level, qpos, qvel)
