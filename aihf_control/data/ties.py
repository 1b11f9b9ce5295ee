"""Ties in a table of comparisons: two consecutive rows of the same two segments, one each way, of less weight."""

from __future__ import annotations

import numpy as np
import pandas as pd

Array = np.ndarray
COLUMNS = ["win_episode", "win_start", "lose_episode", "lose_start", "length", "weight"]


def find_ties(pairs: pd.DataFrame) -> Array:
    """Return a mask (N,) of the rows that are halves of ties."""
    second = find_second_halves(pairs)
    return second | np.append(second[1:], False)[: len(second)]


def find_second_halves(pairs: pd.DataFrame) -> Array:
    """Return a mask (N,) of second halves of ties: rows of weight below 1 that mirror the row before."""
    mirror = [*COLUMNS[2:4], *COLUMNS[:2], *COLUMNS[4:]]
    here, before = pairs[mirror].to_numpy(), pairs[COLUMNS].shift().to_numpy()
    alike = (here == before).all(1) & (pairs["weight"] < 1).to_numpy()
    for i in np.flatnonzero(alike):  # the third of three such rows starts the next tie
        alike[i] = not alike[i - 1]
    return alike


def draw_rows(second: Array, n: int, rng: np.random.Generator) -> Array:
    """Draw `n` row indices without replacement, sorted; a tie is drawn whole unless only half of one fits."""
    first = np.flatnonzero(~second)
    size = np.diff(np.append(first, len(second)))
    chosen: list[int] = []
    for k in rng.permutation(len(first)):
        if size[k] <= n - len(chosen):
            chosen += range(first[k], first[k] + size[k])
    if len(chosen) < n:  # only ties are left, and there is room for half of one
        chosen.append(min(set(range(len(second))) - set(chosen)))
    return np.sort(chosen).astype(int)
