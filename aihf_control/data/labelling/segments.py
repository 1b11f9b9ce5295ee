"""The segments of a pool that may be compared, and the score of each of their steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory

if TYPE_CHECKING:
    from aihf_control.data.labelling.regret import Regret  # torch, which the page does without

Array = np.ndarray
Clip = tuple[int, int]  # episode, start
Row = tuple[int, int, int, int, float]  # win_episode, win_start, lose_episode, lose_start, weight


@dataclasses.dataclass(frozen=True)
class SegmentPool:
    """Segments (clips) of `length` steps of the given `episodes` of a pool."""

    pool: list[Trajectory]
    episodes: list[int]
    length: int
    regret: Regret | None = None
    """Compare segments by this regret; without it, by their true return."""
    grid: int = 1
    """Segments start at multiples of this many steps."""
    groups: Sequence[int] | None = None
    """Group of each episode of the pool, if only segments of the same group may be compared."""

    def draw(self, n: int, rng: np.random.Generator) -> list[Clip]:
        """Draw `n` segments: an episode uniformly, then a start in it uniformly.

        Raises BadInput if no episode is long enough.
        """
        starts = [self.pool[i].starts(self.length) for i in self.episodes]
        fit = [i for i, k in zip(self.episodes, starts, strict=True) if k]
        if not fit:
            longest = max((len(self.pool[i]) for i in self.episodes), default=0)
            raise BadInput(
                f"--clip {self.length} is longer than every episode of the pool; the longest has {longest} steps"
            )
        chosen = rng.choice(fit, n)
        whole = [
            min(self.pool[i].starts(self.length), 1 if self.length >= len(self.pool[i]) else len(self.pool[i]))
            for i in chosen
        ]
        return [(int(i), int(rng.integers(-(-k // self.grid))) * self.grid) for i, k in zip(chosen, whole, strict=True)]

    def pairs(self, n: int, rng: np.random.Generator) -> tuple[list[Clip], list[Clip]]:
        """Draw `n` pairs of two different segments; return the first ones and the second ones.

        Raises BadInput if the pool has too few segments.
        """
        a = self.draw(n, rng) if n else []
        b = self._partners(a, rng)
        for _ in range(100):
            same = [i for i in range(n) if a[i] == b[i]]
            if not same:
                return a, b
            for i, clip in zip(same, self._partners([a[i] for i in same], rng), strict=True):
                b[i] = clip
        raise BadInput("the pool has too few clips to compare; give more --episodes or --levels")

    def _partners(self, clips: list[Clip], rng: np.random.Generator) -> list[Clip]:
        """Draw a segment to compare with each of these."""
        groups = self.groups
        if groups is None:
            return self.draw(len(clips), rng) if clips else []
        alike = {g: [i for i in self.episodes if groups[i] == g] for g in {groups[i] for i, _ in clips}}
        return [dataclasses.replace(self, episodes=alike[groups[i]]).draw(1, rng)[0] for i, _ in clips]

    def step_scores(self, clips: Sequence[Clip]) -> Array:
        """Compute the score of each step of each segment, (N, K): true reward, or its share of the regret."""
        if not clips:
            return np.zeros((0, 1))
        if self.regret:
            return self.regret.step_scores(self.pool, clips, self.length)
        return np.stack([self.pool[i].padded_rewards(start, self.length) for i, start in clips])

    def scale(self, rng: np.random.Generator) -> tuple[float, float]:
        """Estimate mean and standard deviation of segment scores from 1000 segments, or 100 if regret is simulated."""
        clips = self.draw(1000, rng)
        if self.regret:
            scores = self.step_scores(clips[:100]).sum(1)
        else:
            scores = np.array([self.pool[i].return_of(start, self.length) for i, start in clips])
        return float(np.mean(scores)), float(np.std(scores))
