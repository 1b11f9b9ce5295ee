"""Selection of questions: new pairs by a query rule, shared ones, repeats with swapped sides, and certain ones.

What an annotator is asked, with the defaults and n pairs: n pairs, of which a tenth is shared if there are several
annotators; 5 % of n repeats; 5 % of n gold questions, whose answer is certain. Sides are drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.comparisons import to_rows
from aihf_control.data.labelling.queries import CANDIDATES, ROUNDS, choose_pairs
from aihf_control.data.labelling.segments import Clip, Row, SegmentPool
from aihf_control.data.pairs import references
from aihf_control.label.plan import Plan
from aihf_control.label.schema import Draft, Side

Array = np.ndarray
SHORT_CLIP = 50  # steps of a segment where the dataset's comparisons give none
AHEAD = 5  # open questions of an annotator below which the next round is chosen
GAP = 8  # questions between a question and its repeat, where there are so many
GOLD_CANDIDATES, GOLD_MARGIN = 300, 1.5  # segments among which certain pairs are sought; spreads between their returns
WEIGHTS = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5), "skip": (0.0, 0.0)}


class Asked(NamedTuple):
    """A question that was stored, with segments in place of clips, and the choice if it was answered."""

    first: Clip
    second: Clip
    kind: str
    choice: str | None


class Chosen(NamedTuple):
    """A question to be stored; `repeats` is the place of another one in the same list."""

    first: Clip
    second: Clip
    left: Side
    kind: str
    query: str
    expected: Side | None = None
    repeats: int | None = None

    def draft(self, ids: dict[Clip, str]) -> Draft:
        return Draft(ids[self.first], ids[self.second], *self[2:])


def segment_pool(dataset: Dataset, clip: int) -> SegmentPool:
    """Return the segments of `clip` steps that people compare.

    0 takes the length of the dataset's comparisons, or 50 if they are of whole trajectories or there are none. They
    come from episodes that are neither demonstrations nor held out. An imported dataset without comparisons has all its
    other episodes held out: then three in four of them are taken. Raises BadInput if none is long enough.
    """
    meta, pairs = dataset.meta, dataset.pairs
    tested = {c[0] for side in ("win", "lose") for c in references(pairs.loc[pairs["split"] == "test"], side)}
    others = [i for i in range(len(dataset.pool)) if i not in meta["demonstrations"] and i not in tested]
    held_out = set(meta["held_out"])
    episodes = [i for i in others if i not in held_out]
    episodes = episodes or ([i for k, i in enumerate(others) if k % 4 < 3] if len(others) >= 4 else others)
    length = clip or _default_length(dataset)
    if length > meta["horizon"]:
        raise BadInput(f"--clip must be at most {meta['horizon']}, the steps of an episode, got {length}")
    pool = SegmentPool(dataset.pool, episodes or list(meta["demonstrations"]), length)
    pool.pairs(1, np.random.default_rng(0))  # raises if there are too few
    return pool


def _default_length(dataset: Dataset) -> int:
    """Return the length of the dataset's comparisons, unless they take people too long to watch."""
    horizon = dataset.meta["horizon"]
    lengths = [n for n in dataset.pairs["length"].iloc[:1].tolist() if n < horizon]
    return int(lengths[0]) if lengths else min(SHORT_CLIP, horizon)


def shared_pairs(
    pool: SegmentPool, plan: Plan, annotators: int, asked: Sequence[Asked] = ()
) -> list[tuple[Clip, Clip]]:
    """Return the pairs that all annotators are asked; none if there is only one annotator.

    Those that were shared before come first, then the first of all that were `asked` and not skipped: an annotator who
    began alone has them already.
    """
    n = round(plan.shared * plan.pairs) if annotators > 1 else 0
    earlier = [(q.first, q.second) for q in asked if q.kind == "shared"]
    earlier += [(q.first, q.second) for q in asked if q.kind == "new" and q.choice != "skip"]
    drawn = zip(*pool.pairs(n, np.random.default_rng([plan.seed, 3])), strict=True)
    return list(dict.fromkeys([*earlier, *drawn]))[:n]


def choose_questions(
    pool: SegmentPool,
    plan: Plan,
    number: int,
    own: Sequence[Asked],
    others: Sequence[Asked],
    shared: Sequence[tuple[Clip, Clip]],
) -> list[Chosen]:
    """Choose the next questions of the annotator with this number (from 0), given all `own` and the `others`' ones.

    Returns none if enough are open. Pairs depend on the plan's seed, the number, and how many were asked before.
    """
    left, due = count_due(plan, own)
    if not due:
        return []
    rng = np.random.default_rng([plan.seed, 4, number, len(own)])
    had = {(q.first, q.second) for q in own if q.kind in ("new", "shared")}
    missing = [pair for pair in shared if pair not in had][:due]
    pairs = list(zip(*_choose_pairs(pool, plan, due - len(missing), [*own, *others], rng), strict=True))
    chosen = [Chosen(a, b, _side(rng), "new", plan.query if own else "uniform") for a, b in pairs]
    for a, b in missing:
        chosen.insert(int(rng.integers(len(chosen) + 1)), Chosen(a, b, _side(rng), "shared", "uniform"))
    answered = plan.pairs - left
    return _insert_checks(pool, plan, chosen, answered, answered + due, rng)


def count_due(plan: Plan, own: Sequence[Asked]) -> tuple[int, int]:
    """Return how many pairs are still to be chosen for an annotator, and how many of them now.

    The first number is negative if more pairs were asked than the plan has: a skip was undone after its pair was
    replaced, or the plan has fewer pairs than before.
    """
    pairs = [q for q in own if q.kind in ("new", "shared")]
    left = plan.pairs - sum(q.choice != "skip" for q in pairs)
    waiting = sum(q.choice is None for q in pairs)
    at_once = plan.pairs if plan.query == "uniform" else math.ceil(plan.pairs / ROUNDS)
    return left, 0 if waiting > AHEAD else max(0, min(left, at_once))


def _choose_pairs(
    pool: SegmentPool, plan: Plan, n: int, asked: Sequence[Asked], rng: np.random.Generator
) -> tuple[list[Clip], list[Clip]]:
    """Choose pairs by the plan's rule; the first ones, before there are answers, are uniform."""
    rows = answered_rows(asked)
    if plan.query == "uniform" or not rows or not n:
        return pool.pairs(n, rng)
    before = {tuple(sorted((q.first, q.second))) for q in asked}
    drawn = zip(*pool.pairs(CANDIDATES * n, rng), strict=True)
    unlike = {key: pair for pair in drawn if (key := tuple(sorted(pair))) not in before}
    candidates = list(unlike.values())
    best = choose_pairs(plan.query, pool, candidates, rows, n, rng) if candidates else []
    pairs = [candidates[i] for i in best]
    pairs += zip(*pool.pairs(n - len(pairs), rng), strict=True)  # a pool so small that its pairs come again
    return [a for a, _ in pairs], [b for _, b in pairs]


def answered_rows(asked: Sequence[Asked]) -> list[Row]:
    """Return the answers to new and shared pairs as rows (win_episode, win_start, lose_episode, lose_start, weight)."""
    given = [q for q in asked if q.choice and q.kind in ("new", "shared")]
    weights = np.array([WEIGHTS[q.choice or ""] for q in given]).reshape(-1, 2)
    return to_rows([q.first for q in given], [q.second for q in given], weights)


def _insert_checks(
    pool: SegmentPool, plan: Plan, chosen: list[Chosen], before: int, after: int, rng: np.random.Generator
) -> list[Chosen]:
    """Insert repeats and gold questions, so that after `after` pairs there were their shares of so many."""
    n_repeats, n_gold = (round(share * after) - round(share * before) for share in (plan.repeats, plan.gold))
    gold = gold_pairs(pool, n_gold, rng)
    for better, worse in gold:
        first, second, expected = (better, worse, "first") if rng.random() < 0.5 else (worse, better, "second")
        question = Chosen(first, second, _side(rng), "gold", "gold", expected)
        chosen.insert(int(rng.integers(len(chosen) + 1)), question)
    again = [i for i, q in enumerate(chosen) if q.kind != "gold"]
    early = again[: max(len(again) - GAP, len(again) // 2)]
    repeated = rng.choice(early, min(n_repeats, len(early)), replace=False).tolist() if early else []
    places = [(int(rng.integers(min(i + GAP, len(chosen)), len(chosen) + 1)), i) for i in repeated]
    return _merge(chosen, sorted(places))


def _merge(chosen: list[Chosen], repeats: list[tuple[int, int]]) -> list[Chosen]:
    """Insert repeats (place in `chosen` before which one comes, question that it repeats), with sides swapped."""
    merged: list[Chosen] = []
    at: dict[int, int] = {}
    for place in range(len(chosen) + 1):
        for i in [i for where, i in repeats if where == place]:
            question = chosen[i]
            left: Side = "second" if question.left == "first" else "first"
            merged.append(question._replace(left=left, kind="repeat", repeats=at[i]))
        if place < len(chosen):
            at[place] = len(merged)
            merged.append(chosen[place])
    return merged


def gold_pairs(pool: SegmentPool, n: int, rng: np.random.Generator) -> list[tuple[Clip, Clip]]:
    """Return at most `n` pairs (better, worse) of segments of which the returns leave no doubt.

    They look like all others: segments of the upper and the lower tenth, with a margin of 1.5 standard deviations. A
    pool without rewards has none.
    """
    if n <= 0:
        return []
    clips = list(dict.fromkeys(pool.draw(max(GOLD_CANDIDATES, 20 * n), rng)))
    returns = np.array([pool.pool[i].return_of(start, pool.length) for i, start in clips])
    order, tenth = np.argsort(returns, kind="stable"), max(1, len(clips) // 10)
    low, high = rng.permutation(order[:tenth]), rng.permutation(order[-tenth:])
    certain = [(int(a), int(b)) for a, b in zip(high, low, strict=True)]
    margin = GOLD_MARGIN * returns.std()
    return [(clips[a], clips[b]) for a, b in certain if returns[a] - returns[b] > max(margin, 0.0)][:n]


def _side(rng: np.random.Generator) -> Side:
    return "first" if rng.random() < 0.5 else "second"
