"""Statistics against values computed by hand and the published definitions (arXiv 2108.13264)."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from aihf_control.core.statistics import (
    Estimate,
    aggregate,
    bootstrap,
    estimate,
    improvement,
    improvement_estimate,
    iqm,
    iqm_of_all,
    mean,
    mean_of_tasks,
    median_of_tasks,
    optimality_gap,
    profile,
    profile_band,
)

# four runs (rows) of two tasks (columns)
X = np.array([[0.0, 1.0], [0.2, 0.8], [0.4, 2.0], [1.0, 0.2]])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_aggregates_by_hand():
    # all scores in order: 0 0.2 0.2 0.4 0.8 1.0 1.0 2.0; the middle four
    assert iqm_of_all(X) == pytest.approx((0.2 + 0.4 + 0.8 + 1.0) / 4)
    assert mean_of_tasks(X) == pytest.approx((0.4 + 1.0) / 2)
    assert median_of_tasks(X) == pytest.approx((0.4 + 1.0) / 2)
    # shortfalls of 1: 1 0.8 0.6 0 and 0 0.2 0 (scores above 1 count as 1) 0.8
    assert optimality_gap(X) == pytest.approx((2.4 + 1.0) / 8)


def test_the_median_is_over_tasks_of_means_over_runs():
    three = np.array([[0.0, 5.0, 1.0], [2.0, 7.0, 1.0]])
    assert median_of_tasks(three) == 1.0 and mean_of_tasks(three) == pytest.approx((1 + 6 + 1) / 3)


def test_iqm_by_hand():
    """The middle four of eight values; the middle three of five, since a quarter of five rounds down to one."""
    assert iqm([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert iqm([0, 1, 2, 3, 100]) == 2


def test_improvement_by_hand():
    x, y = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # first task: 1 beats 0 and ties 1, 3 beats all: (1 + 0.5 + 3) / 6; second: two ties, else it loses: (0.5 + 0.5) / 6
    assert improvement(x, y) == pytest.approx((4.5 / 6 + 1 / 6) / 2)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)


def test_improvement_is_mann_and_whitneys_u_of_each_task():
    a, b = rng().integers(0, 4, (6, 3)).astype(float), np.random.default_rng(1).integers(0, 4, (5, 3)).astype(float)
    u = [scipy_stats.mannwhitneyu(a[:, k], b[:, k]).statistic / 30 for k in range(3)]
    assert improvement(a, b) == pytest.approx(np.mean(u))


def test_a_profile_by_hand():
    assert profile(X, np.array([-1.0, 0.0, 0.2, 0.5, 2.0])).tolist() == [1.0, 7 / 8, 5 / 8, 4 / 8, 0.0]
    low, high = profile_band(X, np.array([-1.0, 0.2, 2.0]), rng())
    assert (low <= profile(X, np.array([-1.0, 0.2, 2.0]))).all() and high[1] > 5 / 8 > low[1]
    assert low[0] == high[0] == 1 and low[2] == high[2] == 0


def test_the_bootstrap_resamples_runs_within_tasks():
    drawn = bootstrap(np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]), rng(), 500)
    assert drawn.shape == (500, 3, 2)
    assert set(drawn[..., 0].ravel()) == {1, 2, 3} and set(drawn[..., 1].ravel()) == {10, 20, 30}
    apart = drawn[..., 0] * 10 != drawn[..., 1]
    assert apart.any()  # tasks are resampled separately, not in whole rows


def test_the_interval_has_the_width_of_the_normal_approximation():
    """The interval of the mean of n normal runs on each of two tasks is about +-1.96 / sqrt(2 n)."""
    x = scipy_stats.norm.ppf((np.arange(100) + 0.5) / 100)[:, None] * np.ones((1, 2))
    found = aggregate(x, mean_of_tasks, rng())
    assert found.n == 100 and found.value == pytest.approx(0, abs=1e-9)
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.08)


def test_the_stratified_interval_of_one_task_is_about_the_plain_one():
    x = np.array([0.1, 0.5, 0.4, 0.9, 0.7, 0.2])
    many, one = aggregate(x[:, None], iqm_of_all, rng()), estimate(x)
    assert many.value == one.value
    np.testing.assert_allclose(many[1:3], one[1:3], atol=0.03)


def test_intervals_depend_only_on_the_given_generator():
    x = rng().normal(size=(9, 3))
    np.random.seed(1)
    first = aggregate(x, iqm_of_all, rng())
    np.random.seed(2)
    assert aggregate(x, iqm_of_all, rng()) == first
    assert aggregate(x, iqm_of_all, np.random.default_rng(5)) != first


def test_improvement_is_1_if_every_run_is_better():
    assert improvement_estimate(X + 10, X[:3], rng()) == Estimate(1.0, 1.0, 1.0, 3)
    assert improvement_estimate(X, X, rng()).value == 0.5


def test_an_interval_contains_the_value_and_shrinks_with_n():
    few, many = estimate([1.0, 2.0, 3.0, 4.0, 5.0]), estimate([1.0, 2.0, 3.0, 4.0, 5.0] * 20)
    assert few.low <= few.value <= few.high and few.n == 5
    assert many.high - many.low < few.high - few.low
    assert estimate([1.0, 9.0], mean).value == 5
    assert estimate([2.0] * 5) == Estimate(2.0, 2.0, 2.0, 5)


def test_format_of_estimates():
    assert str(Estimate(0.912, 0.5, 1.0, 5)) == "0.91 [0.50, 1.00]"
    assert str(Estimate(3012.4, 2000.2, 3500.9, 5)) == "3012 [2000, 3501]"
    assert str(Estimate(0.5, 0.5, 0.5, 1)) == "0.50"


def test_an_estimate_is_read_from_json_with_null_for_nan():
    kept = estimate(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert Estimate.read(kept._asdict()) == kept
    assert str(Estimate.read({"value": None, "low": None, "high": None, "n": 5})) == "-"
