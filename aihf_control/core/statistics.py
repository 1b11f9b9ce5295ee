"""Statistics over runs: arrays of scores and an explicit generator. Agarwal et al., arXiv 2108.13264.

Scores of one task are (runs,), of several (..., runs, tasks). Every interval is a 95 % percentile bootstrap; over
several tasks it is stratified: runs are drawn anew within each task, tasks are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray
RESAMPLES = 5000
LEVELS = (0.025, 0.975)
FEW = 5  # with fewer runs than this an interval says little
LATE = 5  # evaluations in the mean of a run's last ones
STARRED = f"*: fewer than {FEW} runs, so the interval says little."


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of runs that it comes from."""

    value: float
    low: float
    high: float
    n: int

    @staticmethod
    def read(fields: dict[str, Any]) -> Estimate:
        """From what a JSON file says of one, null where it is not a number."""
        known: dict[str, Any] = {name: np.nan if x is None else x for name, x in fields.items()}
        return Estimate(**known)

    def __str__(self) -> str:
        digits = 2 if abs(self.value) < 10 else 0
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.n > 1 else ""
        return "-" if not np.isfinite(self.value) else f"{self.value:.{digits}f}{interval}"


def counted(n: int) -> str:
    """A number of runs, with a star where they are few."""
    return f"{n}*" if n < FEW else str(n)


def iqm(x: Array, axis: int = -1) -> Array:
    """Interquartile mean: the mean without the lowest and the highest quarter, each rounded down to whole runs (of five
    runs the middle three). With fewer than four runs, the mean."""
    return stats.trim_mean(x, 0.25, axis=axis)


def mean(x: Array, axis: int = -1) -> Array:
    return np.mean(x, axis=axis)


def estimate(
    x: Array, statistic: Callable[[Array], Array] = iqm, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """IQM (or another statistic) of n runs, (n,), with a percentile bootstrap interval.

    A run that is not finite makes it not finite.
    """
    x = np.asarray(x, np.float64)
    rng = np.random.default_rng(seed)
    low, high = np.quantile(statistic(x[rng.integers(len(x), size=(resamples, len(x)))]), LEVELS)
    return Estimate(float(statistic(x)), float(low), float(high), len(x))


# ------------------------------------------------------------------------------ over tasks, (..., runs, tasks) to (...)


def iqm_of_all(x: Array) -> Array:
    """Interquartile mean of the scores of all runs of all tasks together."""
    return iqm(x.reshape(*x.shape[:-2], -1))


def mean_of_tasks(x: Array) -> Array:
    return x.mean((-2, -1))


def median_of_tasks(x: Array) -> Array:
    """Median over tasks of each task's mean over runs."""
    return np.median(x.mean(-2), axis=-1)


def optimality_gap(x: Array, optimum: float = 1.0) -> Array:
    """By how much the scores fall short of an optimum, what lies beyond it not counted."""
    return optimum - np.minimum(x, optimum).mean((-2, -1))


def bootstrap(x: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Scores (runs, tasks) drawn anew with replacement, each task's by themselves: (resamples, runs, tasks)."""
    index = rng.integers(len(x), size=(resamples, *x.shape))
    return np.take_along_axis(x[None], index, axis=1)


def aggregate(x: Array, statistic: Callable[[Array], Array], rng: np.random.Generator) -> Estimate:
    """A statistic of scores (runs, tasks) with its stratified interval; `n` is the number of runs of each task."""
    low, high = np.quantile(statistic(bootstrap(x, rng)), LEVELS)
    return Estimate(float(statistic(x)), float(low), float(high), len(x))


def improvement(x: Array, y: Array) -> Array:
    """Probability that a run of x scores above one of y on the same task, ties half, mean over tasks.

    x is (..., n, tasks) and y (..., m, tasks); of each task it is Mann and Whitney's U over n m.
    """
    difference = x[..., :, None, :] - y[..., None, :, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-3, -2, -1))


def improvement_estimate(x: Array, y: Array, rng: np.random.Generator) -> Estimate:
    """`improvement` with its stratified interval; `n` is the smaller number of runs."""
    low, high = np.quantile(improvement(bootstrap(x, rng), bootstrap(y, rng)), LEVELS)
    return Estimate(float(improvement(x, y)), float(low), float(high), min(len(x), len(y)))


def profile(x: Array, taus: Array) -> Array:
    """Performance profile: the share of runs, over all tasks, that score above each tau, (..., len(taus))."""
    return (x[..., None] > taus).mean((-3, -2))


def profile_band(x: Array, taus: Array, rng: np.random.Generator, resamples: int = 1000) -> Array:
    """Pointwise interval of a performance profile, (2, len(taus)): low and high."""
    return np.quantile(profile(bootstrap(x, rng, resamples), taus), LEVELS, axis=0)


def late_mean(steps: Array, values: Array) -> float:
    """Return the mean of a run's last `LATE` evaluations, step 0 left out; NaN without any or if one is not finite."""
    way = np.asarray(values, np.float64)[np.asarray(steps) > 0][-LATE:]
    return float(way.mean()) if len(way) and np.isfinite(way).all() else float("nan")


def normalised(returns: Array, random: float, expert: float) -> Array:
    """(return - random) / (expert - random)."""
    return (returns - random) / (expert - random)
