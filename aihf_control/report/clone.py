"""Score of the clone, from which most methods start: the reference line of figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from aihf_control.core.statistics import iqm_of_all
from aihf_control.report.grid_results import FINISHED, GridResults, Run, Setting, numbers

Array = np.ndarray
CLONE = "bc"  # the method that is nothing but the clone


def clone_score(grid: GridResults, setting: Setting, env: str | None = None) -> float | None:
    """Return the IQM of the clone's scores in a setting, of one environment or of all; None if it is not known."""
    x = grid.scores(CLONE, setting, env=env)
    if x is None:
        starts = [_start(grid, setting, place) for place in ([env] if env else grid.envs)]
        known = [start for start in starts if start is not None]
        x = np.stack(known, 1) if len(known) == len(starts) and len({len(start) for start in known}) == 1 else None
    return None if x is None else float(iqm_of_all(x))


def _start(grid: GridResults, setting: Setting, env: str) -> Array | None:
    """Return the scores at step 0, per seed, of the first finished run that starts from the clone."""
    for method in grid.methods:
        for run in grid.select(method, setting, env):
            frame = grid.evaluations_of(run)
            if run.state == FINISHED and frame is not None and _starts_from_clone(run):
                return np.nan_to_num(numbers(frame.loc[frame["step"] == 0], "score"))
    return None


def _starts_from_clone(run: Run) -> bool:
    """Return whether the settings of the run's method have those of a clone."""
    cfg: Any = run.config["cell"].get("cfg") if run.config else None
    return isinstance(cfg, dict) and "clone" in cfg
