"""Replay of recorded episodes in the simulator, compared bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import Envs, spec_of

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """First difference between a recorded episode and its replay."""

    episode: int
    step: int
    """Number of steps played before the difference."""
    what: str
    """Column that differs first: obs, reward, terminated, qpos or qvel."""
    by: float
    """Largest absolute difference of its numbers."""

    def __str__(self) -> str:
        return f"episode {self.episode} first differs after {self.step} steps, in {self.what} by {self.by:.3g}"


def verify(dataset: Dataset) -> Iterator[Difference | None]:
    """Replay each episode of the pool from its seed; yield its first difference, or None.

    Raises BadInput for an episode that was recorded without its seed (those seeds are negative).
    """
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    envs = Envs(spec, 1)
    for i, episode in enumerate(dataset.pool):
        if episode.seed < 0:
            raise BadInput(f"episode {i} ({episode.level}) was recorded without its seed, so it cannot be replayed")
        yield find_difference(i, episode, replay_episode(episode, envs))


def replay_episode(episode: Trajectory, envs: Envs, steps: int | None = None) -> Trajectory:
    """Play the recorded actions from the recorded seed until termination, or for at most `steps` steps."""
    obs, states = [envs.reset(0, episode.seed)], [envs.state(0)]
    reward, terminated = [], False
    for act in episode.act[:steps]:
        o, r, t, _ = envs.step(act[None])
        obs.append(o[0])
        states.append(envs.state(0))
        reward.append(r[0])
        terminated = bool(t[0])
        if terminated:
            break
    n = len(reward)
    qpos, qvel = map(np.stack, zip(*states, strict=True)) if states[0] else (None, None)
    return Trajectory(np.stack(obs), episode.act[:n], np.array(reward), terminated, episode.seed, "", qpos, qvel)


def find_difference(index: int, recorded: Trajectory, again: Trajectory) -> Difference | None:
    """Find the earliest difference in any bit; simulator states are compared only if both episodes have them."""
    found = []
    for what, late in (("obs", 0), ("qpos", 0), ("qvel", 0), ("reward", 1)):  # step t's reward is index t - 1
        a, b = getattr(recorded, what), getattr(again, what)
        if a is None or b is None:
            continue
        n = min(len(a), len(b))
        apart = np.abs(a[:n].astype(float) - b[:n]).reshape(n, -1).max(1)
        rows = np.flatnonzero(apart)
        found += [Difference(index, int(rows[0]) + late, what, float(apart[rows[0]]))] if len(rows) else []
    if len(again) < len(recorded) or again.terminated != recorded.terminated:
        found.append(Difference(index, len(again), "terminated", 1.0))
    return min(found, key=lambda difference: difference.step, default=None)
