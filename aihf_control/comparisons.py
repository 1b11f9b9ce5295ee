"""Comparisons of clips of a pool: which are asked about, and what the annotator answers, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aihf_control.annotator import Annotator
from aihf_control.data import Trajectory
from aihf_control.dataset import PAIR_COLUMNS
from aihf_control.files import BadInput

Array = np.ndarray
Clip = tuple[int, int]  # episode, start
PATIENCE = 20  # a teacher that answers less than one question in so many is not asked on


@dataclasses.dataclass(frozen=True)
class Material:
    """What may be compared: the clips of `length` steps of these `episodes` of a pool."""

    pool: list[Trajectory]
    episodes: list[int]
    length: int

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

    def paid(self, clips: Sequence[Clip]) -> Array:
        """What each step of the clips counts for in a comparison, (N, K)."""
        rows = [self.pool[i].paid(start, self.length) for i, start in clips]
        return np.stack(rows) if rows else np.zeros((0, 1))

    def scale(self, rng: np.random.Generator) -> tuple[float, float]:
        """Standard deviation and least of the clips' worth, over 1000 of them."""
        worth = [self.pool[i].gain(start, self.length) for i, start in self.draw(1000, rng)]
        return float(np.std(worth)), float(np.min(worth))


def compare(material: Material, n: int, annotator: Annotator, split: str, rng: np.random.Generator) -> pd.DataFrame:
    """`n` comparisons in the columns of `PAIR_COLUMNS`, a tie in two rows of weight 0.5, one each way.

    For a pair that the annotator skips another is asked. Raises BadInput where it skips nearly all.
    """
    rows, answered, asked = [], 0, 0
    while answered < n:
        if asked > PATIENCE * n:
            raise BadInput(f"the teacher skipped {asked - answered} of {asked} pairs; give a lower --skip")
        a, b = material.pairs(n - answered, rng)
        weight = annotator.judge(material.paid(a), material.paid(b), np.stack([rng.random(len(a)) for _ in "ab"], 1))
        rows += told(a, b, weight)
        answered, asked = answered + int(weight.any(1).sum()), asked + len(a)
    pairs = pd.DataFrame(rows, columns=[*PAIR_COLUMNS[:4], "weight"])
    return pairs.assign(length=material.length, split=split, annotator="synthetic").reindex(columns=PAIR_COLUMNS)


def told(a: Sequence[Clip], b: Sequence[Clip], weight: Array) -> list[tuple[int, int, int, int, float]]:
    """Rows (win_episode, win_start, lose_episode, lose_start, weight) of answers, weight (N, 2); none of skips."""
    both = [((*x, *y, float(w[0])), (*y, *x, float(w[1]))) for x, y, w in zip(a, b, weight, strict=True)]
    return [row for rows in both for row in rows if row[-1] > 0]
