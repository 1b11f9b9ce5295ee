"""Statistics over runs: arrays of scores, runs first, and an explicit generator. Agarwal et al., arXiv 2108.13264."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of runs that it comes from."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        digits = 2 if abs(self.value) < 10 else 0
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.n > 1 else ""
        return "-" if not np.isfinite(self.value) else f"{self.value:.{digits}f}{interval}"


def iqm(x: Array, axis: int = -1) -> Array:
    """Interquartile mean: the mean of the middle half. With fewer than four runs, the mean."""
    return stats.trim_mean(x, 0.25, axis=axis)


def mean(x: Array, axis: int = -1) -> Array:
    return np.mean(x, axis=axis)


def estimate(x: Array, statistic: Callable[[Array], Array] = iqm, resamples: int = 5000, seed: int = 0) -> Estimate:
    """IQM (or another statistic) of n runs, (n,), with a percentile bootstrap interval.

    A run that is not finite makes it not finite.
    """
    x = np.asarray(x, np.float64)
    rng = np.random.default_rng(seed)
    low, high = np.quantile(statistic(x[rng.integers(len(x), size=(resamples, len(x)))]), [0.025, 0.975])
    return Estimate(float(statistic(x)), float(low), float(high), len(x))
