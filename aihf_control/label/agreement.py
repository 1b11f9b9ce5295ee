"""Statistics of answers: agreement between annotators, with oneself, and with certain answers; side bias; speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Z = 1.959964  # of a 95 % interval


class Share(NamedTuple):
    """k of n, and its 95 % interval by Wilson."""

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Return k / n, NaN if n is 0."""
        return self.k / self.n if self.n else math.nan

    def __str__(self) -> str:
        if not self.n:
            return "none yet"
        return f"{self.value:.0%} ({self.k} of {self.n}; {self.low:.0%} to {self.high:.0%})"


def share(k: int, n: int) -> Share:
    """Return k of n with Wilson's interval (JASA 1927)."""
    if not n:
        return Share(0, 0, 0.0, 1.0)
    p, z2 = k / n, Z * Z / n
    middle, half = (p + z2 / 2) / (1 + z2), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return Share(k, n, max(0.0, middle - half), min(1.0, middle + half))


def krippendorff_alpha(ratings: Array) -> float:
    """Compute Krippendorff's alpha for nominal values (Krippendorff, Content Analysis, 2004, chapter 11).

    ratings (annotators, units) are numbers, NaN where an annotator has not rated a unit. 1 is perfect agreement, 0 that
    of chance. Returns NaN if no unit has two ratings, or if all ratings are the same, so that chance explains all.
    """
    ratings = np.asarray(ratings, np.float64)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[None] == values[:, None, None]).sum(1).astype(np.float64)  # (values, units)
    per_unit = counts.sum(0)
    counts, per_unit = counts[:, per_unit > 1], per_unit[per_unit > 1]
    if not len(per_unit):
        return math.nan
    coincidences = (counts / (per_unit - 1)) @ counts.T - np.diag((counts / (per_unit - 1)).sum(1))
    of_value = coincidences.sum(1)
    n = of_value.sum()
    observed = n - np.trace(coincidences)
    expected = (n * n - (of_value**2).sum()) / (n - 1)
    return float(1 - observed / expected) if expected else math.nan


def pairwise_agreement(one: Sequence[float], other: Sequence[float]) -> Share:
    """Return how often two annotators gave the same answer, among the units that both rated (NaN: not rated)."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if not (math.isnan(a) or math.isnan(b))]
    return share(sum(a == b for a, b in both), len(both))
