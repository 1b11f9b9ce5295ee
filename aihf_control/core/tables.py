"""Checked reading of csv files that this package wrote."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes

CSV_BYTES = 256 * 2**20


def read_csv(path: Path, kinds: dict[str, type]) -> pd.DataFrame:
    """Read a csv file that has at least the columns `kinds`, of these types (int, float or str).

    Raises BadInput if it cannot be read, has no rows, lacks a column or has a value of another type.
    """
    data = read_bytes(path, CSV_BYTES)
    try:
        frame: Any = pd.read_csv(io.BytesIO(data))
        if lacking := [name for name in kinds if name not in frame]:
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        if frame.empty:
            raise ValueError("it has no rows")
        return frame.assign(**{name: _convert(frame[name], kind) for name, kind in kinds.items()})
    except (ValueError, TypeError, ArithmeticError) as e:
        raise BadInput(f"cannot read {path}: {' '.join(str(e).split())[:200]}") from e


def _convert(column: Any, kind: type) -> Any:
    """Return a column's values as `kind`. Raises ValueError if that changes a value."""
    if kind is str:
        if column.isna().any():
            raise ValueError(f"{column.name} is empty in some rows")
        return column.astype(str)
    numbers: Any = pd.to_numeric(column)
    if kind is float:
        return numbers.astype(float)
    whole = numbers.astype(int)
    if not (whole == numbers).all():
        raise ValueError(f"{column.name} must be whole numbers")
    return whole
