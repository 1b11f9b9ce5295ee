"""Ties among comparisons: two rows, one after the other, of the same clips each way round, each of less weight."""

from __future__ import annotations

import numpy as np
import pandas as pd

Array = np.ndarray
COLUMNS = ["win_episode", "win_start", "lose_episode", "lose_start", "length", "weight"]


def ties(pairs: pd.DataFrame) -> Array:
    """Which rows, (N,), are halves of ties."""
    second = second_halves(pairs)
    return second | np.append(second[1:], False)[: len(second)]


def second_halves(pairs: pd.DataFrame) -> Array:
    """Which rows, (N,), are the second half of a tie: of weight below 1 and the one before them the other way round."""
    mirror = [*COLUMNS[2:4], *COLUMNS[:2], *COLUMNS[4:]]
    here, before = pairs[mirror].to_numpy(), pairs[COLUMNS].shift().to_numpy()
    alike = (here == before).all(1) & (pairs["weight"] < 1).to_numpy()
    for i in np.flatnonzero(alike):  # of three such rows in turn the third begins the next tie
        alike[i] = not alike[i - 1]
    return alike


def draw_rows(second: Array, n: int, rng: np.random.Generator) -> Array:
    """Places (n,) of rows drawn without replacement, in order, no tie torn apart unless nothing else is left."""
    first = np.flatnonzero(~second)
    size = np.diff(np.append(first, len(second)))
    chosen: list[int] = []
    for k in rng.permutation(len(first)):
        if size[k] <= n - len(chosen):
            chosen += range(first[k], first[k] + size[k])
    if len(chosen) < n:  # all but ties are taken, and there is room for half of one
        chosen.append(min(set(range(len(second))) - set(chosen)))
    return np.sort(chosen).astype(int)
