"""Training data: trajectories, their transitions and segments, and comparisons of segments.

Shapes: T steps of an episode, K steps of a segment, N items, O observation size, A action size. Actions are in
(-1, 1). Only `Trajectory` stores the true reward; `Steps` and `Clips`, which learners receive, have no field for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Column = Any  # a numpy array in a dataset; a tensor with a first axis of lanes in a task


class Steps(NamedTuple):
    """Transitions of one lane without rewards: obs, next_obs (N, O), act (N, A), done (N,), 1 if terminated."""

    obs: Array
    act: Array
    next_obs: Array
    done: Array


class Clips(NamedTuple):
    """Segments of K steps, called clips in code: obs (N, K, O), act (N, K, A), real (N, K).

    If an episode terminates inside a segment, the rest is in the absorbing state: `real` is 0 there, obs and act are
    padding. A whole trajectory is the segment from step 0 with the length of the horizon.
    """

    obs: Column
    act: Column
    real: Column


class Preferences(NamedTuple):
    """Preferences between pairs of segments: each of `win` is preferred to that of `lose`, with weight (N,)."""

    win: Clips
    lose: Clips
    weight: Column


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """An episode as the simulator returned it."""

    obs: Array
    """(T + 1, O) float32, including the observation after the last step."""
    act: Array
    """(T, A) float32 in (-1, 1)."""
    reward: Array
    """(T,) the true reward, used by annotators and evaluations, never by a learner."""
    terminated: bool
    """Whether it ended in a terminal state (a fall) and not at the time limit."""
    seed: int
    """Seed of the environment's reset; negative if unknown."""
    level: str
    """Policy that acted: "expert", "medium", "expert+0.3" (30 % random actions), ..."""
    qpos: Array | None = None
    """(T + 1, ...) simulator positions, if available, with which segments can be rendered or restarted."""
    qvel: Array | None = None
    every: int = 1
    """Subsampling stride of a demonstration: learners receive every such step from step `first` on."""

    def __len__(self) -> int:
        return len(self.act)

    def __repr__(self) -> str:
        end = "terminated" if self.terminated else "truncated"
        return f"Trajectory({self.level}, {len(self)} steps, return {self.reward.sum():.1f}, {end})"

    @property
    def first(self) -> int:
        """First step that learners receive; it depends on the seed."""
        return self.seed % min(self.every, len(self))

    def steps(self) -> Steps:
        """Return the transitions that learners receive."""
        done = np.zeros(len(self), np.float32)
        done[-1:] = self.terminated
        kept = slice(self.first, None, self.every)
        return Steps(self.obs[:-1][kept], self.act[kept], self.obs[1:][kept], done[kept])

    def return_of(self, start: int, length: int) -> float:
        """Return the undiscounted true return of a segment. The absorbing state has reward 0."""
        return float(self.reward[start : start + length].sum())

    def padded_rewards(self, start: int, length: int) -> Array:
        """Return the true reward of each step of a segment, (length,); 0 after the end of the episode."""
        inside = self.reward[start : start + length]
        return np.concatenate([inside, np.zeros(length - len(inside))])

    def starts(self, length: int) -> int:
        """Return the number of segments of `length` steps; they may extend past the end only after a termination."""
        return len(self) if self.terminated else max(0, len(self) - length + 1)


def cut(episodes: Sequence[Trajectory], references: Sequence[tuple[int, int, int]]) -> Clips:
    """Cut the segments given by (episode, start, length) from episodes, padded to the longest."""
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
    """Concatenate transitions."""
    return Steps(*(np.concatenate(column) for column in zip(*steps, strict=True)))


@dataclasses.dataclass(frozen=True)
class LaneSample:
    """The sample of a dataset's demonstrations and comparisons that one lane learns from."""

    demos: list[Trajectory]
    pairs: Preferences | None
    clip_steps: Steps | None
    """Transitions inside the compared segments, without duplicates."""
    right: float = float("nan")
    """Share of the comparisons that prefer the segment of higher return; only logged."""
    segments: Array | None = None
    """(M, 3): the distinct compared segments, each a first row of `clip_steps`, a number of rows, and its length K, of
    which the rows are fewer if the episode terminates inside."""


def correct_share(margin: Array) -> Array:
    """Return 1 where the preferred segment has the higher true return (margin > 0), 0.5 where both are equal."""
    return (margin > 0) + 0.5 * (margin == 0)
