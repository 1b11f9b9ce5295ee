"""Does the simulator agree with the one that made a dataset? Every episode is played again and compared bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import Envs, EnvSpec, spec_of

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where an episode, played again, first is another one."""

    episode: int
    step: int
    """How many steps had been played."""
    what: str
    """obs, reward, terminated, qpos or qvel; the first of them that differs after that step."""
    by: float
    """The greatest difference of its numbers."""

    def __str__(self) -> str:
        return f"episode {self.episode} first differs after {self.step} steps, in {self.what} by {self.by:.3g}"


def verify(dataset: Dataset) -> Iterator[Difference | None]:
    """For each episode of the pool where it first differs when its actions are played from its reset, or None.

    Raises BadInput for an episode of which nobody recorded the seed of its reset (those are negative).
    """
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    envs = Envs(spec, 1)
    for i, episode in enumerate(dataset.pool):
        if episode.seed < 0:
            raise BadInput(f"episode {i} ({episode.level}) was recorded without its seed, so it cannot be played again")
        again = replayed(spec, episode, envs)
        yield first_difference(i, episode, again)


def replayed(spec: EnvSpec, episode: Trajectory, envs: Envs) -> Trajectory:
    """The episode as the simulator gives it now, to its own end or to that of the recorded actions."""
    obs, states = [envs.reset(0, episode.seed)], [envs.state(0)]
    reward, terminated = [], False
    for act in episode.act:
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


def first_difference(index: int, recorded: Trajectory, again: Trajectory) -> Difference | None:
    """The earliest place where the two are not the same bits; states are compared only where both have them."""
    found = []
    for what, late in (("obs", 0), ("qpos", 0), ("qvel", 0), ("reward", 1)):  # a reward is seen a step later
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
