"""Statistics over runs (Agarwal et al., arXiv 2108.13264).

Scores of one task have shape (runs,), of several tasks (..., runs, tasks). Every interval is a 95 % percentile
bootstrap. Over several tasks it is stratified: runs are resampled within each task, tasks are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray
RESAMPLES = 5000
LEVELS = (0.025, 0.975)
FEW = 5  # with fewer runs an interval is unreliable
LATE = 5  # evaluations in the mean of a run's last ones
STAR_NOTE = f"*: fewer than {FEW} runs, so the interval says little."  # as in committed tables


class Estimate(NamedTuple):
    """A value, its 95 % interval, and the number of runs that it is computed from."""

    value: float
    low: float
    high: float
    n: int

    @staticmethod
    def read(fields: dict[str, Any]) -> Estimate:
        """Create an estimate from the fields in a JSON file, where null stands for NaN."""
        known: dict[str, Any] = {name: np.nan if x is None else x for name, x in fields.items()}
        return Estimate(**known)

    def __str__(self) -> str:
        digits = 2 if abs(self.value) < 10 else 0
        interval = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.n > 1 else ""
        return "-" if not np.isfinite(self.value) else f"{self.value:.{digits}f}{interval}"


def format_count(n: int) -> str:
    """Format a number of runs, with a star if it is below `FEW`."""
    return f"{n}*" if n < FEW else str(n)


def iqm(x: Array, axis: int = -1) -> Array:
    """Return the interquartile mean: the mean without the lowest and the highest quarter.

    A quarter is rounded down to whole runs: five runs leave the middle three, fewer than four runs leave all.
    """
    return stats.trim_mean(x, 0.25, axis=axis)


def mean(x: Array, axis: int = -1) -> Array:
    """Return the mean."""
    return np.mean(x, axis=axis)


def estimate(
    x: Array, statistic: Callable[[Array], Array] = iqm, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Estimate the IQM (or another statistic) of n runs, (n,), with a percentile bootstrap interval.

    The result is not finite if one of the runs is not.
    """
    x = np.asarray(x, np.float64)
    rng = np.random.default_rng(seed)
    low, high = np.quantile(statistic(x[rng.integers(len(x), size=(resamples, len(x)))]), LEVELS)
    return Estimate(float(statistic(x)), float(low), float(high), len(x))


# ------------------------------------------------------------------------------ over tasks, (..., runs, tasks) to (...)


def iqm_of_all(x: Array) -> Array:
    """Return the interquartile mean over all runs of all tasks."""
    return iqm(x.reshape(*x.shape[:-2], -1))


def mean_of_tasks(x: Array) -> Array:
    """Return the mean over all runs of all tasks."""
    return x.mean((-2, -1))


def median_of_tasks(x: Array) -> Array:
    """Return the median over tasks of each task's mean over runs."""
    return np.median(x.mean(-2), axis=-1)


def optimality_gap(x: Array, optimum: float = 1.0) -> Array:
    """Return the mean shortfall of the scores below an optimum; a score above it counts as the optimum."""
    return optimum - np.minimum(x, optimum).mean((-2, -1))


def bootstrap(x: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """Resample scores (runs, tasks) with replacement within each task: (resamples, runs, tasks)."""
    index = rng.integers(len(x), size=(resamples, *x.shape))
    return np.take_along_axis(x[None], index, axis=1)


def aggregate(x: Array, statistic: Callable[[Array], Array], rng: np.random.Generator) -> Estimate:
    """Estimate a statistic of scores (runs, tasks) with a stratified interval; `n` is the number of runs per task."""
    low, high = np.quantile(statistic(bootstrap(x, rng)), LEVELS)
    return Estimate(float(statistic(x)), float(low), float(high), len(x))


def improvement(x: Array, y: Array) -> Array:
    """Return the probability that a run of x scores above one of y on the same task, averaged over tasks.

    x has shape (..., n, tasks), y (..., m, tasks). Ties count half: per task it is the Mann-Whitney U over n m.
    """
    difference = x[..., :, None, :] - y[..., None, :, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-3, -2, -1))


def improvement_estimate(x: Array, y: Array, rng: np.random.Generator) -> Estimate:
    """Estimate `improvement` with a stratified interval; `n` is the smaller number of runs."""
    low, high = np.quantile(improvement(bootstrap(x, rng), bootstrap(y, rng)), LEVELS)
    return Estimate(float(improvement(x, y)), float(low), float(high), min(len(x), len(y)))


def profile(x: Array, taus: Array) -> Array:
    """Return the performance profile: the share of runs of all tasks that score above each tau, (..., len(taus))."""
    return (x[..., None] > taus).mean((-3, -2))


def profile_band(x: Array, taus: Array, rng: np.random.Generator, resamples: int = 1000) -> Array:
    """Return the pointwise interval of a performance profile, (2, len(taus)): low and high."""
    return np.quantile(profile(bootstrap(x, rng, resamples), taus), LEVELS, axis=0)


def late_mean(steps: Array, values: Array) -> float:
    """Return the mean of a run's last `LATE` evaluations, step 0 left out; NaN without any or if one is not finite."""
    way = np.asarray(values, np.float64)[np.asarray(steps) > 0][-LATE:]
    return float(way.mean()) if len(way) and np.isfinite(way).all() else float("nan")


def normalised(returns: Array, random: float, expert: float) -> Array:
    """Return the normalised scores (return - random) / (expert - random)."""
    return (returns - random) / (expert - random)
