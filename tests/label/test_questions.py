"""Selection of questions: how many of each kind, in which order, and what happens with skipped ones."""

import collections
import dataclasses

import numpy as np
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.label.choosing import Chooser, read_asked
from aihf_control.label.plan import Plan
from aihf_control.label.questions import GAP, Asked, choose_questions, count_due, gold_pairs, segment_pool, shared_pairs
from aihf_control.label.store import Store

PLAN = Plan(pairs=100)


@pytest.fixture(scope="module")
def pool(dataset) -> SegmentPool:
    return segment_pool(dataset, 0)


def choose(pool, plan=PLAN, number=0, own=(), others=(), shared=()):
    return choose_questions(pool, plan, number, list(own), list(others), list(shared))


def asked(questions, choice="first"):
    return [Asked(q.first, q.second, q.kind, choice) for q in questions]


def test_kinds_have_their_shares_and_new_pairs_are_those_that_a_teacher_is_asked(pool):
    chosen = choose(pool)
    assert collections.Counter(q.kind for q in chosen) == {"new": 100, "repeat": 5, "gold": 5}
    new = [(q.first, q.second) for q in chosen if q.kind == "new"]
    assert new == list(zip(*pool.pairs(100, np.random.default_rng([0, 4, 0, 0])), strict=True))
    assert choose(pool) == chosen and choose(pool, number=1) != chosen


def test_sides_are_drawn_at_random(pool):
    left = [q.left for q in choose(pool, Plan(pairs=400)) if q.kind == "new"]
    assert 160 < left.count("first") < 240


def test_repeats_come_later_with_swapped_sides(pool):
    chosen = choose(pool, Plan(pairs=200, repeats=0.2))
    repeats = [(i, q) for i, q in enumerate(chosen) if q.kind == "repeat"]
    assert len(repeats) == 40 and len({q.repeats for _, q in repeats}) == 40
    for i, q in repeats:
        original = chosen[q.repeats]
        assert (q.first, q.second) == (original.first, original.second) and q.left != original.left
        assert original.kind == "new" and i - q.repeats >= GAP


@pytest.mark.parametrize("pairs", [1, 2, 7, 9, 10, 20, 33])
def test_few_pairs_have_their_repeats_and_gold_questions_too(pool, pairs):
    chosen = choose(pool, Plan(pairs=pairs, repeats=0.2, gold=0.2))
    count = collections.Counter(q.kind for q in chosen)
    assert count["new"] == pairs and count["repeat"] <= round(0.2 * pairs) and count["gold"] == round(0.2 * pairs)
    assert all(q.repeats < i for i, q in enumerate(chosen) if q.kind == "repeat")


def test_gold_pairs_are_certain_and_in_both_orders(pool):
    spread = np.std([pool.pool[i].return_of(s, pool.length) for i, s in pool.draw(500, np.random.default_rng(0))])
    chosen = [q for q in choose(pool, Plan(pairs=200)) if q.kind == "gold"]
    for q in chosen:
        first, second = (pool.pool[i].return_of(s, pool.length) for i, s in (q.first, q.second))
        assert (first - second if q.expected == "first" else second - first) > spread
    assert {q.expected for q in chosen} == {"first", "second"} and len(chosen) == 10


def test_a_pool_without_rewards_has_no_gold_pairs(pool):
    blank = [dataclasses.replace(t, reward=np.zeros_like(t.reward)) for t in pool.pool]
    assert gold_pairs(dataclasses.replace(pool, pool=blank), 5, np.random.default_rng(0)) == []


def test_shared_pairs_are_the_same_for_all_annotators(pool):
    shared = shared_pairs(pool, PLAN, 3)
    assert len(shared) == 10 and shared_pairs(pool, PLAN, 1) == []
    for number in range(3):
        chosen = choose(pool, number=number, shared=shared)
        assert {(q.first, q.second) for q in chosen if q.kind == "shared"} == set(shared)
        assert sum(q.kind in ("new", "shared") for q in chosen) == 100


def test_who_joins_later_shares_the_first_pairs_of_who_began_alone(pool):
    alone = choose(pool)
    own = asked(alone)
    own[0] = own[0]._replace(choice="skip")
    new = [(q.first, q.second) for q in own if q.kind == "new" and q.choice != "skip"]
    shared = shared_pairs(pool, PLAN, 2, own)
    assert shared == list(dict.fromkeys(new))[:10]
    assert {q.kind for q in choose(pool, own=own, shared=shared)} == {"new"}  # one in place of the skipped one
    joined = choose(pool, number=1, others=own, shared=shared)
    assert {(q.first, q.second) for q in joined if q.kind == "shared"} == set(shared)
    assert sum(q.kind in ("new", "shared") for q in joined) == 100
    assert shared_pairs(pool, PLAN, 3, [*own, *asked(joined)]) == [
        (q.first, q.second) for q in joined if q.kind == "shared"
    ]


def test_more_shared_pairs_than_a_round_come_in_the_next_rounds(pool):
    plan = Plan(pairs=20, query="coverage", shared=0.5, repeats=0, gold=0)
    shared, own = shared_pairs(pool, plan, 2), []
    for n_shared in (4, 4, 2, 0, 0):
        chosen = choose(pool, plan, own=own, shared=shared)
        assert len(chosen) == 4 and sum(q.kind == "shared" for q in chosen) == n_shared
        own += asked(chosen)


def test_nothing_is_chosen_while_enough_is_open_and_skipped_pairs_are_replaced(pool):
    first = choose(pool)
    assert choose(pool, own=asked(first, None)) == []
    own = asked(first)
    skipped = [i for i, q in enumerate(own) if q.kind == "new"][:3]
    for i in skipped:
        own[i] = own[i]._replace(choice="skip")
    more = choose(pool, own=own)
    assert [q.kind for q in more] == ["new"] * 3 and count_due(PLAN, own) == (3, 3)
    assert choose(pool, own=[*own, *asked(more)]) == []


def test_more_pairs_than_planned_end_the_questions(pool):
    """A skip that is undone after its pair was replaced, and a later start with fewer pairs."""
    own = asked(choose(pool))
    skipped = next(i for i, q in enumerate(own) if q.kind == "new")
    more = choose(pool, own=[*own[:skipped], own[skipped]._replace(choice="skip"), *own[skipped + 1 :]])
    assert len(more) == 1
    for choice in ("first", None):
        undone = [*own[:skipped], own[skipped]._replace(choice=choice), *own[skipped + 1 :], *asked(more)]
        assert count_due(PLAN, undone) == (-1, 0) and choose(pool, own=undone) == []
    assert choose(pool, Plan(pairs=40), own=own) == [] and choose(pool, Plan(pairs=40, query="coverage"), own=own) == []
    assert gold_pairs(pool, -1, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    "query", ["coverage", *(pytest.param(name, marks=pytest.mark.slow) for name in ("disagreement", "entropy"))]
)
def test_active_queries_come_in_rounds_after_uniform_ones(pool, query):
    plan = Plan(pairs=40, query=query, repeats=0.1, gold=0.1)
    own, rounds = [], []
    for _ in range(5):
        chosen = choose(pool, plan, own=own)
        rounds.append([q for q in chosen if q.kind == "new"])
        assert choose(pool, plan, own=[*own, *asked(chosen, None)]) == []
        own += asked(chosen)
    assert [len(r) for r in rounds] == [8] * 5 and choose(pool, plan, own=own) == []
    assert {q.query for q in rounds[0]} == {"uniform"} and {q.query for r in rounds[1:] for q in r} == {query}
    pairs = [tuple(sorted((q.first, q.second))) for r in rounds for q in r]
    assert len(set(pairs)) == len(pairs)
    kinds = collections.Counter(q.kind for q in own)
    assert kinds["repeat"] == 4 and kinds["gold"] == 4


def test_segments_are_of_training_episodes(dataset, pool):
    unused = {*dataset.meta["held_out"], *dataset.meta["demonstrations"]}
    assert pool.length == 10 and not unused & set(pool.episodes) and pool.episodes


def test_an_imported_dataset_without_comparisons_keeps_a_quarter_of_its_episodes_apart(dataset):
    n = len(dataset.pool)
    meta = dataset.meta | {"demonstrations": [], "held_out": list(range(n))}
    bare = dataclasses.replace(dataset, meta=meta, pairs=dataset.pairs.iloc[:0])
    found = segment_pool(bare, 7)
    assert found.length == 7 and len(found.episodes) == n - n // 4 and segment_pool(bare, 0).length == 50
    with pytest.raises(BadInput, match="--clip must be at most 1000"):
        segment_pool(bare, 2000)


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": 0}, {"pairs": 100_001}, {"repeats": -0.1}, {"gold": 1.5}, {"shared": 2.0}, {"clip": -1}, {"seed": -1}],
)
def test_a_wrong_plan_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(BadInput, match=f"--{name} must be"):
        Plan(**wrong)


def test_questions_are_stored_with_the_ids_of_their_clips_and_read_back(dataset, pool, tmp_path):
    from aihf_control.environments.gym import spec_of

    store, plan = Store(tmp_path), Plan(pairs=20, repeats=0.1, gold=0.1)
    store.add_annotators(["ann", "bob"])
    chooser = Chooser(store, plan, spec_of("Hopper-v4"), dataset, pool, None)
    assert chooser.choose() and not chooser.choose()
    shared = shared_pairs(pool, plan, 2)
    read = read_asked(store)
    for number, who in enumerate((1, 2)):
        chosen = choose(pool, plan, number, shared=shared)
        assert [(q.first, q.second, q.kind) for q in read[who]] == [(q.first, q.second, q.kind) for q in chosen]
        assert [q.left for q in store.questions(who)] == [q.left for q in chosen]
    repeat = next(q for q in store.questions(1) if q.kind == "repeat")
    original = next(q for q in store.questions(1) if q.id == repeat.repeats)
    assert (original.first, original.second) == (repeat.first, repeat.second)
    store.add_fault(store.questions(1)[0].first, "broken")
    assert read_asked(store)[1][0].choice == "skip"
