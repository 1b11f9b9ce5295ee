"""Comparisons of clips of a pool: which pairs are asked about, and what the annotator answers, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import PAIR_COLUMNS
from aihf_control.data.labelling.queries import CANDIDATES, ROUNDS, choose
from aihf_control.data.labelling.segments import Clip, Row, SegmentPool
from aihf_control.data.labelling.teachers import Annotator

Array = np.ndarray
PATIENCE = 20  # a teacher that answers less than one question in so many is not asked on


def compare(
    material: SegmentPool, n: int, annotator: Annotator, split: str, rng: np.random.Generator, query: str = "uniform"
) -> pd.DataFrame:
    """`n` comparisons in the columns of `PAIR_COLUMNS`, a tie in two rows of weight 0.5, one each way.

    Asked all at once, or, where `query` chooses by the answers so far, in rounds. For a pair that the annotator skips
    another is asked. Raises BadInput where it skips nearly all.
    """
    rows: list[Row] = []
    answered, asked, at_once = 0, 0, n if query == "uniform" else math.ceil(n / ROUNDS)
    while answered < n:
        if asked > PATIENCE * n:
            raise BadInput(f"the teacher skipped {asked - answered} of {asked} pairs; give a lower --skip")
        a, b = _questions(material, min(at_once, n - answered), query, rows, rng)
        weight = annotator.judge(
            material.step_scores(a), material.step_scores(b), np.stack([rng.random(len(a)) for _ in "ab"], 1)
        )
        rows += to_rows(a, b, weight)
        answered, asked = answered + int(weight.any(1).sum()), asked + len(a)
    pairs = pd.DataFrame(rows, columns=[*PAIR_COLUMNS[:4], "weight"])
    return pairs.assign(length=material.length, split=split, annotator="synthetic").reindex(columns=PAIR_COLUMNS)


def _questions(
    material: SegmentPool, n: int, query: str, rows: list[Row], rng: np.random.Generator
) -> tuple[list[Clip], list[Clip]]:
    """The clips, and those beside them, of at most `n` pairs to ask about. The first round of any query is uniform."""
    if query == "uniform" or not rows:
        return material.pairs(n, rng)
    drawn = zip(*material.pairs(CANDIDATES * n, rng), strict=True)
    candidates = list({tuple(sorted(pair)): pair for pair in drawn}.values())  # short pools repeat themselves
    chosen = [candidates[i] for i in choose(query, material, candidates, rows, n, rng)]
    return [a for a, _ in chosen], [b for _, b in chosen]


def to_rows(a: Sequence[Clip], b: Sequence[Clip], weight: Array) -> list[Row]:
    """Rows (win_episode, win_start, lose_episode, lose_start, weight) of answers, weight (N, 2); none of skips."""
    both = [((*x, *y, float(w[0])), (*y, *x, float(w[1]))) for x, y, w in zip(a, b, weight, strict=True)]
    return [row for rows in both for row in rows if row[-1] > 0]
