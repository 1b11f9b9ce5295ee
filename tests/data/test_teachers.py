"""Teachers: each one's rates are those of its definition, and together they act in B-Pref's order."""

import numpy as np
import pytest
from scipy.stats import norm

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.labelling.comparisons import collect_comparisons, to_rows
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.labelling.teachers import TEACHERS, Teacher, majority, make_teacher
from aihf_control.data.ties import draw_rows, find_second_halves

N, K = 40_000, 20
SPREAD, MEAN = 3.0, 0.5


@pytest.fixture(scope="module")
def clips():
    """Pairs of clips whose returns are normal with deviation SPREAD, and the numbers by which a teacher doubts."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, SPREAD / np.sqrt(K), (2, N, K))
    return first, second, rng.random((N, 2))


def asked(clips, name: str, **dials) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's weights for the first clip, and by how many spreads that one is truly better."""
    first, second, u = clips
    weight = make_teacher(name, spread=SPREAD, mean=MEAN, **dials).label(first, second, u)
    assert weight.shape == (N, 2) and weight.dtype == np.float32
    assert set(map(tuple, weight.tolist())) <= {(1, 0), (0, 1), (0.5, 0.5), (0, 0)}
    return weight, (first.sum(1) - second.sum(1)) / SPREAD


def rate(found: np.ndarray, expected: float) -> None:
    """A share of independent cases is what it should be, to four standard errors."""
    assert abs(found.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(found)) + 1e-9


def test_the_oracle_never_errs(clips):
    weight, margin = asked(clips, "oracle")
    assert np.array_equal(weight[:, 0], margin > 0) and np.array_equal(weight.sum(1), np.ones(N))


def test_of_two_alike_the_oracle_tosses_a_coin(clips):
    first, _, u = clips
    rate(make_teacher("oracle").label(first, first, u)[:, 0], 0.5)


def test_the_noisy_teacher_follows_the_bradley_terry_model(clips):
    weight, margin = asked(clips, "noisy")
    p = 1 / (1 + np.exp(-margin / 0.2))
    for low, high in ((-9, -0.5), (-0.5, -0.2), (-0.2, 0), (0, 0.2), (0.2, 0.5), (0.5, 9)):
        inside = (margin > low) & (margin <= high)
        rate(weight[inside, 0], p[inside].mean())


def test_the_temperature_is_in_spreads(clips):
    first, second, u = clips
    small = Teacher(0.5, spread=1.0).label(first, second, u)
    assert np.array_equal(Teacher(0.5, spread=100.0).label(100 * first, 100 * second, u), small)


@pytest.mark.parametrize("error", [None, 0.3])
def test_the_mistaken_teacher_errs_at_its_rate_whatever_the_margin(clips, error):
    weight, margin = asked(clips, "mistake", error=error)
    wrong = weight[:, 0] != (margin > 0)
    for inside in (np.abs(margin) < 0.5, np.abs(margin) > 1.5):
        rate(wrong[inside], error or 0.1)


@pytest.mark.parametrize("skip", [None, -1.5, 0.0, 1.0])
def test_the_skipping_teacher_skips_where_both_are_poor_and_nowhere_else(clips, skip):
    weight, margin = asked(clips, "skip", skip=skip)
    bar = MEAN + (-0.5 if skip is None else skip) * SPREAD
    poor = np.maximum(*(x.sum(1) for x in clips[:2])) <= bar
    assert np.array_equal(weight.sum(1) == 0, poor) and 0 < poor.mean() < 1
    rate(weight.sum(1) == 0, norm.cdf(bar / SPREAD) ** 2)
    assert np.array_equal(weight[~poor, 0], margin[~poor] > 0)


@pytest.mark.parametrize("equal", [None, 1.0])
def test_the_equal_teacher_calls_a_tie_what_lies_close(clips, equal):
    weight, margin = asked(clips, "equal", equal=equal)
    close = np.abs(margin) < (equal or 0.1)
    assert (weight[close] == 0.5).all() and np.array_equal(weight[~close, 0], margin[~close] > 0)
    rate(close, 2 * norm.cdf((equal or 0.1) / np.sqrt(2)) - 1)


@pytest.mark.parametrize("memory", [None, 0.5])
def test_the_myopic_teacher_weighs_a_step_by_how_late_it_is(clips, memory):
    first, second, _ = clips
    weight, margin = asked(clips, "myopic", memory=memory)
    counted = (memory or 0.9) ** (K - np.arange(1, K + 1))
    assert np.array_equal(weight[:, 0], ((first - second) @ counted) > 0)
    correlation = counted.sum() / np.sqrt(K * (counted**2).sum())  # of two normal sums: P(sign differs) = arccos / pi
    rate(weight[:, 0] != (margin > 0), np.arccos(correlation) / np.pi)


def test_the_order_is_skip_equal_myopia_doubt_mistake():
    """The last step alone decides for one without memory; a mistake turns it; neither touches ties and skips."""
    first = np.array([[5.0, 1.0], [5.0, 1.0], [0.1, 0.0], [0.0, 2.0]])
    second = np.array([[0.0, 2.0], [4.9, 1.0], [0.0, 0.05], [5.0, 1.0]])
    odd = Teacher(0.0, error=0.4, spread=1.0, mean=0.0, skip=0.2, equal=0.2, memory=1e-6)
    sure, slip = np.array([[0.5, 0.9]] * 4), np.array([[0.5, 0.1]] * 4)
    assert odd.label(first, second, sure).tolist() == [[0, 1], [0.5, 0.5], [0, 0], [1, 0]]
    assert odd.label(first, second, slip).tolist() == [[1, 0], [0.5, 0.5], [0, 0], [0, 1]]


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_judges_alike_whatever_the_unit_and_the_side(clips, name):
    """Money in other units changes nothing, and who comes first is named first."""
    first, second, u = clips
    one = make_teacher(name, spread=SPREAD, mean=MEAN)
    other = make_teacher(name, spread=8 * SPREAD, mean=8 * MEAN)
    weight = one.label(first, second, u)
    assert np.array_equal(other.label(8 * first, 8 * second, u), weight)
    turned = one.label(second, first, np.stack([1 - u[:, 0], u[:, 1]], 1))
    assert np.array_equal(turned[:, ::-1], weight)


# ---------------------------------------------------------------------------------------------------------- its answers


def pool_of(returns: list[float]) -> list[Trajectory]:
    obs = np.zeros((3, 1), np.float32)
    return [Trajectory(obs, obs[:2], np.array([g / 2, g / 2]), False, i, "any") for i, g in enumerate(returns)]


def test_a_tie_is_two_rows_a_skipped_pair_none():
    weight = np.array([[1, 0], [0.5, 0.5], [0, 0], [0, 1]])
    a, b = [(0, 0), (1, 0), (2, 0), (3, 0)], [(9, 5), (8, 5), (7, 5), (6, 5)]
    assert to_rows(a, b, weight) == [(0, 0, 9, 5, 1.0), (1, 0, 8, 5, 0.5), (8, 5, 1, 0, 0.5), (6, 5, 3, 0, 1.0)]


def test_each_skipped_pair_is_replaced_by_another():
    segment_pool = SegmentPool(pool_of([0, 0, 0, 10, 20]), list(range(5)), 2)
    pairs = collect_comparisons(
        segment_pool, 200, make_teacher("skip", mean=5.0, spread=1.0), "train", np.random.default_rng(0)
    )
    assert len(pairs) == 200 and (pairs["weight"] == 1).all()
    assert {3, 4} == set(pairs["win_episode"]) and {0, 1, 2} & set(pairs["lose_episode"])


def test_a_teacher_that_skips_all_pairs_ends_the_queries():
    segment_pool = SegmentPool(pool_of([0, 1, 2]), [0, 1, 2], 2)
    with pytest.raises(BadInput, match="skipped 105 of 105 pairs; give a lower --skip"):
        collect_comparisons(segment_pool, 5, make_teacher("skip", skip=9.0), "train", np.random.default_rng(0))


@pytest.mark.parametrize("n", [1, 2, 7, 60, 90, None])
def test_ties_are_drawn_whole(n):
    segment_pool = SegmentPool(pool_of([0, 1, 1.5, 2, 9]), list(range(5)), 2)
    pairs = collect_comparisons(segment_pool, 80, make_teacher("equal", equal=1.1), "train", np.random.default_rng(1))
    n = n or len(pairs)
    tied = pairs["weight"] == 0.5
    assert (
        np.array_equal(find_second_halves(pairs), tied & (tied.cumsum() % 2 == 0))
        and 30 < tied.sum() < 100
        and len(pairs) > 90
    )
    for seed in range(5):
        rows = pairs.iloc[draw_rows(find_second_halves(pairs), n, np.random.default_rng(seed))]
        assert len(rows) == n and rows.index.is_unique and rows.index.is_monotonic_increasing
        assert (rows["weight"] == 0.5).sum() == 2 * find_second_halves(rows).sum()


def test_without_ties_every_row_is_drawn_alike():
    rows = np.random.default_rng(3).permutation(50)[:20]
    assert np.array_equal(draw_rows(np.zeros(50, bool), 20, np.random.default_rng(3)), np.sort(rows))


def test_among_ties_alone_an_odd_number_takes_half_of_one():
    second = np.array([False, True] * 3)
    assert np.unique(draw_rows(second, 5, np.random.default_rng(0))).size == 5


def test_the_config_selects_a_teacher_and_its_settings(policy_zips):
    small = {"demos": 0, "episodes": 4, "noise": (0.0,), "pairs": 40, "test_pairs": 10, "clip": 10}
    made = make_dataset("Hopper-v4", DataConfig(**small, teacher="equal", error=0.05, equal=0.5), policy_zips)
    said = made.meta["annotator"]
    assert (said["equal"], said["error"], said["temperature"], said["skip"], said["memory"]) == (0.5, 0.05, 0, None, 1)
    train, test = (made.pairs[made.pairs["split"] == split] for split in ("train", "test"))
    ties = int((train["weight"] == 0.5).sum()) // 2
    assert ties > 3 and len(train) == 40 + ties and (test["weight"] == 1).all() and len(test) == 10
    gains = [made.pool[i].return_of(s, 10) for i, s in zip(train["win_episode"], train["win_start"], strict=True)]
    assert said["spread"] > 0 and min(gains) < said["mean"] < max(gains)
    assert isinstance(made, Dataset)


# ------------------------------------------------------------------------------------------- preferences in a circle


def thirds(*returns: float) -> np.ndarray:
    """A segment of six steps with these returns by third."""
    return np.repeat(returns, 2)[None] / 2


def test_the_cyclic_teacher_by_hand():
    """A beats B, B beats C and C beats A, each in two thirds, whatever their sums."""
    a, b, c = thirds(3, 1, 2), thirds(2, 3, 1), thirds(1, 2, 3)
    teacher, u = make_teacher("cyclic"), np.array([[0.5, 0.9]])
    assert [teacher.label(x, y, u)[0, 0] for x, y in ((a, b), (b, c), (c, a))] == [1, 1, 1]
    assert [teacher.label(y, x, u)[0, 0] for x, y in ((a, b), (b, c), (c, a))] == [0, 0, 0]
    assert teacher.label(thirds(1, 1, -9), thirds(0, 0, 9), u)[0, 0] == 1  # the lower sum
    assert make_teacher("oracle").label(thirds(1, 1, -9), thirds(0, 0, 9), u)[0, 0] == 0


def test_the_majority_of_three_by_hand():
    half, sure, never = np.array([0.5]), np.array([1.0]), np.array([0.0])
    assert majority(half, half, half) == 0.5 and majority(sure, sure, never) == 1
    assert majority(np.array([0.9]), np.array([0.8]), never) == pytest.approx(0.72)


def test_a_doubting_cyclic_teacher_doubts_in_each_third(clips):
    weight, _ = asked(clips, "cyclic", temperature=0.5)
    first, second, _ = clips
    gaps = [x.sum(1) for x in np.array_split(first - second, 3, axis=1)]
    p = [1 / (1 + np.exp(-gap / (0.5 * SPREAD / 3))) for gap in gaps]
    rate(weight[:, 0], majority(*p).mean())
    sure = majority(*p) > 0.9
    rate(weight[sure, 0], majority(*p)[sure].mean())


def test_other_numbers_of_parts_are_refused():
    with pytest.raises(BadInput, match="1 or 3 parts of a segment that vote, got 7"):
        Teacher(parts=7)
    with pytest.raises(BadInput, match="neither myopic nor cyclic"):
        make_dataset("Hopper-v4", DataConfig(label="regret", teacher="cyclic"))
