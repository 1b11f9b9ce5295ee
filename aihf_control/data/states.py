"""Simulator states among the columns of transitions, with which segments can be drawn and restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput

Array = np.ndarray
STATES = ("qpos", "qvel")


def read_states(path: Path, columns: dict[str, Array]) -> dict[str, Array]:
    """Return both columns of states as rows of float64, one for each of obs, or none. Raises BadInput."""
    found = [name for name in STATES if name in columns]
    if len(found) == 1:
        raise BadInput(f"{path} has {found[0]} alone; give both {' and '.join(STATES)}, or neither")
    n = len(columns["obs"])
    for name in found:
        if len(columns[name]) != n:
            raise BadInput(f"{path}: {name} has {len(columns[name])} rows; it needs {n}, one for each of obs")
        if not np.isfinite(columns[name]).all():
            raise BadInput(f"{path}: {name} has entries that are not finite numbers")
    return {name: columns[name].reshape(n, -1).astype(np.float64) for name in found}


def episode_states(columns: dict[str, Array], rows: slice, steps: int) -> dict[str, Any]:
    """Return the states of an episode, (steps + 1, ...) each; a missing last one repeats the one before."""
    states = {name: columns[name][rows] for name in STATES if name in columns}
    return {name: np.concatenate([x, x[-1:]])[: steps + 1] for name, x in states.items()}
