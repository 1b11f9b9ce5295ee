"""What is learned from: trajectories, the steps and clips cut from them, and comparisons.

Knows neither environments nor networks. Shapes: T steps of an episode, K steps of a clip, N of anything, O observation
size, A action size. Actions are in (-1, 1).

The true reward lives in `Trajectory` alone. `Steps` and `Clips`, which learners get, have no place for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Column = Any  # a numpy array in a dataset; a tensor, lanes first, in a task


class Steps(NamedTuple):
    """Transitions of one lane, without reward: obs, next_obs (N, O), act (N, A), done (N,) = terminated."""

    obs: Array
    act: Array
    next_obs: Array
    done: Array


class Clips(NamedTuple):
    """Clips of K steps: obs (N, K, O), act (N, K, A), real (N, K).

    Where an episode terminated inside the clip, the rest of the clip lies in the absorbing state: `real` is 0 there and
    obs and act are padding. A whole trajectory is a clip from step 0 as long as the horizon.
    """

    obs: Column
    act: Column
    real: Column


class Preferences(NamedTuple):
    """Comparisons: each clip of `win` was preferred to the one of `lose`, with weight (N,)."""

    win: Clips
    lose: Clips
    weight: Column


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One episode as the simulator gave it. `repr` shows shapes."""

    obs: Array
    """(T + 1, O) float32; the last one is where the episode ended."""
    act: Array
    """(T, A) float32 in (-1, 1)."""
    reward: Array
    """(T,) the true reward: for annotators and evaluation, never for a learner."""
    terminated: bool
    """Whether it ended in a terminal state (a fall), not by running out of time."""
    seed: int
    """Seed of the environment's reset; negative if nobody recorded it."""
    level: str
    """Who acted: "expert", "medium", "expert+0.3" (30 % random actions), ..."""
    qpos: Array | None = None
    """(T + 1, ...) simulator positions, where there are any, so that every clip can be shown or restarted."""
    qvel: Array | None = None
    every: int = 1
    """Of a demonstration, learners get every so many-th step, beginning with one of the first that its seed names."""

    def __len__(self) -> int:
        return len(self.act)

    def __repr__(self) -> str:
        end = "terminated" if self.terminated else "truncated"
        return f"Trajectory({self.level}, {len(self)} steps, return {self.reward.sum():.1f}, {end})"

    @property
    def first(self) -> int:
        """The first step that learners get."""
        return self.seed % min(self.every, len(self))

    def steps(self) -> Steps:
        done = np.zeros(len(self), np.float32)
        done[-1:] = self.terminated
        kept = slice(self.first, None, self.every)
        return Steps(self.obs[:-1][kept], self.act[kept], self.obs[1:][kept], done[kept])

    def return_of(self, start: int, length: int) -> float:
        """True return of the clip, undiscounted. The absorbing state pays nothing."""
        return float(self.reward[start : start + length].sum())

    def padded_rewards(self, start: int, length: int) -> Array:
        """What each step of the clip truly paid, (length,): 0 after the end of the episode."""
        inside = self.reward[start : start + length]
        return np.concatenate([inside, np.zeros(length - len(inside))])

    def starts(self, length: int) -> int:
        """How many clips of `length` begin in this episode; one that terminated may be overrun."""
        return len(self) if self.terminated else max(0, len(self) - length + 1)


def cut(episodes: Sequence[Trajectory], references: Sequence[tuple[int, int, int]]) -> Clips:
    """The clips named by (episode, start, length), padded to the longest."""
    n, k = len(references), max(length for _, _, length in references)
    first = episodes[0]
    obs = np.zeros((n, k, first.obs.shape[1]), np.float32)
    act = np.zeros((n, k, first.act.shape[1]), np.float32)
    real = np.zeros((n, k), np.float32)
    for i, (episode, start, length) in enumerate(references):
        t = episodes[episode]
        stop = min(start + length, len(t))
        obs[i, : stop - start], act[i, : stop - start] = t.obs[start:stop], t.act[start:stop]
        real[i, : stop - start] = 1
    return Clips(obs, act, real)


def join(steps: Sequence[Steps]) -> Steps:
    return Steps(*(np.concatenate(column) for column in zip(*steps, strict=True)))


@dataclasses.dataclass(frozen=True)
class LaneData:
    """What one lane may learn from: its draw of a dataset's demonstrations and comparisons."""

    demos: list[Trajectory]
    pairs: Preferences | None
    clip_steps: Steps | None
    """The transitions inside the compared clips, once each."""
    right: float = float("nan")
    """Share of the comparisons that name the better clip; for the log alone."""


def correct_share(margin: Array) -> Array:
    """1 where the named clip truly paid more, by a `margin` above 0, and a half where both paid the same."""
    return (margin > 0) + 0.5 * (margin == 0)
