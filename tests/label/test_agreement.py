"""Agreement statistics against numbers that were worked out by hand or in print."""

import math

import numpy as np
import pytest

from aihf_control.label.agreement import krippendorff_alpha, pairwise_agreement, share
from aihf_control.label.results import summarise_answers
from aihf_control.label.schema import Draft
from tests.label.conftest import add_clips, clip_id

NAN = math.nan
PRINTED = [  # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]  # section A of the same text


def test_alpha_is_that_of_the_printed_examples():
    assert krippendorff_alpha(np.array(PRINTED)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(np.array(BINARY)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_three_units_by_hand():
    """Units (1, 1), (0, 0), (1, 0): coincidences 11: 2, 00: 2, 10: 1, 01: 1; n = 6, three of each value.
    alpha = 1 - 2 / ((36 - 18) / 5) = 1 - 10 / 18."""
    assert krippendorff_alpha(np.array([[1, 0, 1], [1, 0, 0]])) == pytest.approx(1 - 10 / 18)


@pytest.mark.parametrize("ratings", [[[1, NAN], [NAN, 0]], [[1, 1], [1, 1]], [[NAN], [NAN]], [[1.0, 0.0]]])
def test_alpha_is_not_defined_without_two_ratings_or_two_values(ratings):
    assert math.isnan(krippendorff_alpha(np.array(ratings)))


def test_alpha_is_one_for_agreement_and_negative_for_contradiction():
    assert krippendorff_alpha(np.array([[1, 0, 0.5], [1, 0, 0.5]])) == 1.0
    assert krippendorff_alpha(np.array([[1, 0], [0, 1]])) == pytest.approx(-0.5)  # 1 - 4 / (8 / 3)


def test_alpha_is_that_of_the_reference_implementation():
    oracle = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    for _ in range(20):
        ratings = rng.choice([0.0, 0.5, 1.0, NAN], size=(4, 15))
        expected = oracle.alpha(ratings, level_of_measurement="nominal")
        assert krippendorff_alpha(ratings) == pytest.approx(expected)


def test_a_share_has_wilsons_interval():
    """8 of 10 by hand: middle (0.8 + 0.19207) / 1.38415 = 0.71674, half 1.95996 sqrt(0.016 + 0.0096036) / 1.38415."""
    found = share(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4) and found.value == 0.8
    assert str(found) == "80% (8 of 10; 49% to 94%)" and str(share(0, 0)) == "none yet"
    assert share(0, 5).low == 0 and share(5, 5).high == 1


def test_pairwise_agreement_counts_what_both_rated():
    assert pairwise_agreement([1, 0, NAN, 0.5], [1, 1, 1, 0.5])[:2] == (2, 3)


def test_results_by_hand(store):
    """Ann prefers the first clip on four of five; of two repeats she repeats one; she misses the gold question."""
    add_clips(store, range(12))

    def draft(n: int, left="first", kind="new", expected=None, repeats=None) -> Draft:
        return Draft(clip_id(2 * n), clip_id(2 * n + 1), left, kind, "uniform", expected, repeats)

    ann = [draft(0, kind="shared"), draft(1, kind="shared"), draft(2, kind="gold", expected="first")]
    ann += [draft(0, "second", "repeat", repeats=0), draft(1, "second", "repeat", repeats=1), draft(3), draft(4)]
    mine = store.add_questions(1, ann)
    said = ["first", "second", "second", "first", "first", "skip", "tie"]
    for question, choice, seconds in zip(mine, said, (2.0, 4.0, 4.0, 4.0, 4.0, 9.0, 5.0), strict=True):
        store.answer(1, question, choice, seconds)
    theirs = store.add_questions(2, [draft(0, "second", "shared"), draft(1, kind="shared")])
    store.answer(2, theirs[0], "first", 1.0)
    store.answer(2, theirs[1], "first", 1.0)
    results = summarise_answers(store)
    ann_, bob = results.people
    assert (ann_.name, ann_.answered, ann_.skipped, ann_.ties, ann_.per_minute) == ("ann", 6, 1, 1, 15.0)
    # on the left were: first, first, first, second, second; answered first, second, second, first, first
    assert (ann_.left.k, ann_.left.n) == (1, 5)
    assert (ann_.self_agreement.k, ann_.self_agreement.n) == (1, 2)
    assert (ann_.gold.k, ann_.gold.n) == (0, 1) and bob.gold.n == 0
    assert results.shared == 2 and results.agreement[0][2][:2] == (1, 2)
    assert results.alpha == pytest.approx(krippendorff_alpha(np.array([[1, 0], [1, 1]])))
    (look,) = results.disagreements
    assert look.said == "ann: right, bob: left" and (look.left, look.right) == (clip_id(2), clip_id(3))
    assert results.answers[0].said == "bob: left" and results.answers[-1].said == "ann: left"


def test_a_pair_that_was_new_for_who_began_alone_is_shared_with_who_came_later(store):
    add_clips(store, range(4))

    def ask(annotator: int, n: int, kind: str, choice: str) -> None:
        draft = Draft(clip_id(2 * n), clip_id(2 * n + 1), "first", kind, "uniform")
        store.answer(annotator, store.add_questions(annotator, [draft])[0], choice, 1.0)

    for annotator, n, kind, choice in ((1, 0, "new", "first"), (1, 1, "new", "tie"), (2, 0, "shared", "second")):
        ask(annotator, n, kind, choice)
    results = summarise_answers(store)
    assert results.shared == 1 and results.agreement[0][2][:2] == (0, 1)
    assert [look.said for look in results.disagreements] == ["ann: left, bob: right"]
