"""Comparisons of segments of a pool as a table: choose pairs, have the annotator label them, collect the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.data.labelling.queries import CANDIDATES, ROUNDS, choose_pairs
from aihf_control.data.labelling.segments import Clip, Row, SegmentPool
from aihf_control.data.labelling.teachers import Teacher
from aihf_control.data.pairs import PAIR_COLUMNS

Array = np.ndarray
MAX_QUESTIONS = 20  # questions per wanted answer before a teacher that skips too much is refused


def collect_comparisons(
    segment_pool: SegmentPool,
    n: int,
    annotator: Teacher,
    split: str,
    rng: np.random.Generator,
    query: str = "uniform",
) -> pd.DataFrame:
    """Collect `n` comparisons in the columns of `PAIR_COLUMNS`; a tie is two rows of weight 0.5, one each way.

    Pairs are asked all at once, or in rounds if `query` depends on earlier answers. Each skipped pair is replaced by
    another one. Raises BadInput if the annotator skips nearly all pairs.
    """
    rows: list[Row] = []
    answered, asked, at_once = 0, 0, n if query == "uniform" else math.ceil(n / ROUNDS)
    while answered < n:
        if asked > MAX_QUESTIONS * n:
            raise BadInput(f"the teacher skipped {asked - answered} of {asked} pairs; give a lower --skip")
        a, b = _choose_round(segment_pool, min(at_once, n - answered), query, rows, rng)
        weight = annotator.label(
            segment_pool.step_scores(a), segment_pool.step_scores(b), np.stack([rng.random(len(a)) for _ in "ab"], 1)
        )
        rows += to_rows(a, b, weight)
        answered, asked = answered + int(weight.any(1).sum()), asked + len(a)
    pairs = pd.DataFrame(rows, columns=[*PAIR_COLUMNS[:4], "weight"])
    return pairs.assign(length=segment_pool.length, split=split, annotator="synthetic").reindex(columns=PAIR_COLUMNS)


def _choose_round(
    segment_pool: SegmentPool, n: int, query: str, rows: list[Row], rng: np.random.Generator
) -> tuple[list[Clip], list[Clip]]:
    """Choose at most `n` pairs to ask about; the first round of every query is uniform."""
    if query == "uniform" or not rows:
        return segment_pool.pairs(n, rng)
    drawn = zip(*segment_pool.pairs(CANDIDATES * n, rng), strict=True)
    candidates = list({tuple(sorted(pair)): pair for pair in drawn}.values())  # a small pool gives duplicates
    chosen = [candidates[i] for i in choose_pairs(query, segment_pool, candidates, rows, n, rng)]
    return [a for a, _ in chosen], [b for _, b in chosen]


def to_rows(a: Sequence[Clip], b: Sequence[Clip], weight: Array) -> list[Row]:
    """Convert labels, weight (N, 2), to rows (win_episode, win_start, lose_episode, lose_start, weight).

    A skipped pair gives no row, a tie gives two.
    """
    both = [((*x, *y, float(w[0])), (*y, *x, float(w[1]))) for x, y, w in zip(a, b, weight, strict=True)]
    return [row for rows in both for row in rows if row[-1] > 0]
