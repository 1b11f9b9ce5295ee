"""The clips of a pool that may be compared, and what their steps count for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.labelling.regret import Regret

Array = np.ndarray
Clip = tuple[int, int]  # episode, start
Row = tuple[int, int, int, int, float]  # win_episode, win_start, lose_episode, lose_start, weight


@dataclasses.dataclass(frozen=True)
class SegmentPool:
    """What may be compared: the clips of `length` steps of these `episodes` of a pool."""

    pool: list[Trajectory]
    episodes: list[int]
    length: int
    regret: Regret | None = None
    """Whose advantages the clips are compared by; without, by what they paid."""

    def draw(self, n: int, rng: np.random.Generator) -> list[Clip]:
        """`n` clips, each episode alike and each start in it alike. Raises BadInput where none is long enough."""
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
        return [(int(i), int(rng.integers(k))) for i, k in zip(chosen, whole, strict=True)]

    def pairs(self, n: int, rng: np.random.Generator) -> tuple[list[Clip], list[Clip]]:
        """`n` clips and as many others, none beside itself."""
        a, b = (self.draw(n, rng) if n else [] for _ in range(2))
        for _ in range(100):
            same = [i for i in range(n) if a[i] == b[i]]
            if not same:
                return a, b
            for i, clip in zip(same, self.draw(len(same), rng), strict=True):
                b[i] = clip
        raise BadInput("the pool has too few clips to compare; give more --episodes or --levels")

    def step_scores(self, clips: Sequence[Clip]) -> Array:
        """What each step of the clips counts for in a comparison, (N, K)."""
        if not clips:
            return np.zeros((0, 1))
        if self.regret:
            return self.regret.step_scores(self.pool, clips, self.length)
        return np.stack([self.pool[i].padded_rewards(start, self.length) for i, start in clips])

    def scale(self, rng: np.random.Generator) -> tuple[float, float]:
        """Mean and standard deviation of the clips' worth, over 1000 of them; 100 where each has to be played."""
        clips = self.draw(1000, rng)
        if self.regret:
            worth = self.step_scores(clips[:100]).sum(1)
        else:
            worth = np.array([self.pool[i].return_of(start, self.length) for i, start in clips])
        return float(np.mean(worth)), float(np.std(worth))
