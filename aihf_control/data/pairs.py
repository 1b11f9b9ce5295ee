"""Table of comparisons between segments of a pool: its columns, the segments it names, and its checks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory

Array = np.ndarray
REFERENCE_COLUMNS = ("win_episode", "win_start", "lose_episode", "lose_start", "length")
PAIR_COLUMNS = (*REFERENCE_COLUMNS, "weight", "split", "annotator")


def references(rows: pd.DataFrame, side: str) -> list[tuple[int, int, int]]:
    """List the segments (episode, start, length) of the "win" or "lose" side of comparisons."""
    columns = (rows[f"{side}_episode"], rows[f"{side}_start"], rows["length"])
    return list(zip(*(column.astype(int).tolist() for column in columns), strict=True))


def margins(pool: Sequence[Trajectory], rows: pd.DataFrame) -> Array:
    """Compute the true return of each winning segment minus that of the losing one, (N,)."""
    win, lose = (
        np.array([pool[episode].return_of(start, length) for episode, start, length in references(rows, side)])
        for side in ("win", "lose")
    )
    return win - lose


def read_pairs(data: bytes, path: Path) -> pd.DataFrame:
    """Read preferences.csv from its bytes. Raises BadInput for a column that is missing or of the wrong type."""
    try:
        pairs = pd.read_csv(io.BytesIO(data), converters={"weight": float})  # pandas' own parser may round
    except ValueError as e:
        raise BadInput(f"cannot read {path}: {' '.join(str(e).split())}") from e
    missing = set(PAIR_COLUMNS) - set(pairs.columns)
    if missing:
        raise BadInput(f"{path} lacks the columns {', '.join(sorted(missing))}")
    if len(pairs):  # a table without rows has no types to check
        _check_columns(pairs, path)
    return pairs


def _check_columns(pairs: pd.DataFrame, path: Path) -> None:
    for name in REFERENCE_COLUMNS:
        if pairs[name].dtype.kind != "i":
            raise BadInput(f"{path}: {name} has entries that are no whole numbers")
    weight = pairs["weight"].to_numpy(np.float64)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise BadInput(f"{path}: weight has entries that are no numbers from 0 up")
    if set(pairs["split"]) - {"train", "test"}:
        raise BadInput(f"{path}: split has entries that are neither train nor test")


def check_references(pairs: pd.DataFrame, pool: Sequence[Trajectory], horizon: int, path: Path) -> None:
    """Raise BadInput for a segment that the pool does not have."""
    if len(pairs) and pairs["length"].to_numpy().max() > horizon:
        raise BadInput(f"{path}: length has entries above the {horizon} steps of an episode")
    for side in ("win", "lose"):
        for row, (episode, start, length) in enumerate(references(pairs, side)):
            if not 0 <= episode < len(pool) or not 0 <= start < pool[episode].starts(length) or length < 1:
                raise BadInput(f"{path}, row {row + 2}: no clip of {length} steps at {start} of episode {episode}")
