"""Loader of a grid's runs: a frame with a row per lane, and a frame with a row per lane and evaluation.

Each cell of the grid becomes a `Run`. A cell whose files are damaged is excluded with the reason; it stops neither the
other cells nor the report.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.config import as_word, override
from aihf_control.core.errors import BadInput
from aihf_control.core.statistics import late_mean, normalised
from aihf_control.report.claims import check_claim
from aihf_control.report.columns import COLUMNS, OPTIONAL
from aihf_control.report.config import Claim, ReportConfig
from aihf_control.report.grid_results import BEGUN, CUT_SHORT, EXCLUDED, FINISHED, TO_DO, GridResults, Run, numbers
from aihf_control.report.run_files import (
    check_fields,
    is_number,
    read_complete_log,
    read_config,
    read_summary,
    read_table,
)

KEY = re.compile(r"[\w+-][\w.+-]*")  # of a cell: a folder's name, and part of links and LaTeX comments
RESERVED = {"cell", "env", "method", "environment", "score", *(column.name for column in COLUMNS)}
KINDS = {"name": str, "title": str, "about": str, "report": dict, "cells": list, "file": str}
CELL_KINDS = {"key": str, "env": str, "name": str, "method": str, "seeds": int, "dials": dict}


def load_grid(folder: Path) -> GridResults:
    """Load a grid's folder, excluding cells whose files are damaged.

    Raises BadInput if grid.json is damaged, or if no run could be loaded.
    """
    path = folder / "grid.json"
    grid = check_fields(read_table(path), KINDS, path)
    loaded = [_load_run(folder / "cells" / run.key, run) for run in _cells(grid["cells"], path)]
    report = override(ReportConfig(), grid["report"], f"{path}, report")
    about: dict[str, Any] = {name: grid[name] for name in ("name", "title", "about", "file")}
    results = _assemble(folder, loaded, report, about)
    return dataclasses.replace(results, claims=_claims(grid.get("claims", []), results, path))


def _claims(given: Any, grid: GridResults, path: Path) -> tuple[Claim, ...]:
    """Return the claims of grid.json. Raises BadInput if they are not about the grid."""
    if not isinstance(given, list):
        raise BadInput(f"{path} is damaged: its claims must be a list")
    claims = tuple(override(Claim(), table, f"{path}, a claim") for table in given)
    for claim in claims:
        check_claim(claim, grid.methods, grid.envs, grid.settings, f"{path}, a claim")
    return claims


def load_runs(folder: Path, runs: Sequence[Path]) -> GridResults:
    """Load finished runs that belong to no grid as one; runs of one method and environment get different names.

    Raises BadInput if no run could be loaded.
    """
    taken: dict[tuple[str, str], int] = {}
    loaded = []
    for where in runs:
        config = read_config(where / "config.json")
        env, method = (str(x) for x in (config["options"].get("env"), config["cell"].get("method")))
        taken[env, method] = taken.get((env, method), 0) + 1
        name = method if taken[env, method] == 1 else f"{method} ({taken[env, method]})"
        key = str(where.relative_to(folder))
        loaded.append(_load_run(where, Run(key, env, name, {}, len(config["cell"]["seeds"]), TO_DO)))
    about = {"name": folder.name, "title": folder.name, "about": "", "file": ""}
    return _assemble(folder, loaded, ReportConfig(), about)


def _assemble(
    folder: Path, loaded: Sequence[tuple[Run, pd.DataFrame | None]], report: ReportConfig, about: dict[str, Any]
) -> GridResults:
    """Build the results of loaded runs. Raises BadInput if none has finished."""
    runs = [run for run, _ in loaded]
    logs = {run.key: log for run, log in loaded if log is not None}
    if not logs:
        excluded = [run for run in runs if run.state == EXCLUDED]
        more = f" ({len(excluded)} are excluded, the first because: {excluded[0].reason})" if excluded else ""
        raise BadInput(f"no finished run in {folder}{more}; run it with `python -m aihf_control.bench`")
    done = [run for run in runs if run.key in logs]
    frames = [_evaluations(run, logs[run.key]) for run in done]
    lanes = pd.DataFrame([row for run, frame in zip(done, frames, strict=True) for row in _lane_rows(run, frame)])
    evaluations = pd.concat(frames, ignore_index=True)
    swept = list(runs[0].swept)
    first = [*_place(done[0]), *(c.name for c in COLUMNS if c.required), "score"]
    first += [c.name for c in OPTIONAL if c.name in evaluations]
    lanes = lanes.reindex(columns=[*first, *(name for name in lanes if name not in first)])
    evaluations = evaluations.reindex(columns=first)
    return GridResults(folder, **about, report=report, runs=runs, swept=swept, lanes=lanes, evaluations=evaluations)


def _cells(cells: list[Any], path: Path) -> list[Run]:
    """Build the runs, not yet begun, of the cells of grid.json. Raises BadInput for cells that make no grid."""
    runs = [_cell(check_fields(cell, CELL_KINDS, f"{path}, a cell,"), path) for cell in cells]
    if not runs:
        raise BadInput(f"{path} is damaged: it has no cells")
    if len({tuple(run.swept) for run in runs}) > 1:
        raise BadInput(f"{path} is damaged: its cells do not have the same swept factors (dials)")
    if len({run.n for run in runs}) > 1:
        raise BadInput(f"{path} is damaged: its cells do not have the same number of seeds")
    places = {(run.env, run.name, tuple(run.swept.values())) for run in runs}
    if len({run.key for run in runs}) < len(runs) or len(places) < len(runs):
        raise BadInput(f"{path} is damaged: it has the same cell twice")
    return runs


def _cell(cell: dict[str, Any], path: Path) -> Run:
    swept = {name: _hashable(value, path) for name, value in cell["dials"].items()}
    if not KEY.fullmatch(cell["key"]):
        raise BadInput(f"{path} is damaged: a cell's key is {cell['key']!r}, which is no folder's name")
    if not all(name.isprintable() and name for name in (cell["env"], cell["name"], *swept)) or cell["seeds"] < 1:
        raise BadInput(f"{path} is damaged: cell {cell['key']} has an unprintable name or no seeds")
    if taken := sorted(set(swept) & RESERVED):
        raise BadInput(f"{path} is damaged: no swept factor can be called {taken[0]!r}")
    code = cell.get("code")
    return Run(
        cell["key"],
        cell["env"],
        cell["name"],
        swept,
        cell["seeds"],
        TO_DO,
        code=code if isinstance(code, str) else None,
    )


def _hashable(value: Any, path: Path) -> Any:
    """Return the value of a swept factor, lists as tuples. Raises BadInput for tables and numbers beyond LARGEST."""
    if isinstance(value, list):
        return tuple(_hashable(x, path) for x in value)
    if value is None or isinstance(value, bool) or is_number(value) or (isinstance(value, str) and value.isprintable()):
        return value
    raise BadInput(f"{path} is damaged: the value of a swept factor must be a word, a number or a list of them")


# --------------------------------------------------------------------------------------------------------------- runs


def _load_run(where: Path, run: Run) -> tuple[Run, pd.DataFrame | None]:
    """Load a run from its folder, and its log if it has finished. A damaged one is excluded, with the reason."""
    try:
        return _read_run(where, run)
    except (BadInput, OSError) as e:
        return dataclasses.replace(run, state=EXCLUDED, reason=str(e)), None


def _read_run(where: Path, run: Run) -> tuple[Run, pd.DataFrame | None]:
    if not any((where / name).exists() for name in ("config.json", "summary.json")):
        return run, None
    config = read_config(where / "config.json")
    if not (where / "summary.json").exists():
        return dataclasses.replace(run, state=BEGUN, config=config), None
    summary = read_summary(where / "summary.json", run.n)
    run = dataclasses.replace(
        run, state=CUT_SHORT if summary["interrupted"] else FINISHED, config=config, summary=summary
    )
    return run, read_complete_log(where / "log.jsonl", summary) if run.state == FINISHED else None


def _place(run: Run) -> dict[str, Any]:
    return {"cell": run.key, "env": run.env, "method": run.name} | {k: as_word(x) for k, x in run.swept.items()}


def _evaluations(run: Run, log: pd.DataFrame) -> pd.DataFrame:
    assert run.summary
    score = normalised(numbers(log, "return"), run.summary["random_return"], run.summary["expert_return"])
    columns = {name: [value] * len(log) for name, value in _place(run).items()}
    return pd.DataFrame(columns | {name: log[name] for name in log} | {"score": score})


def _lane_rows(run: Run, evaluations: pd.DataFrame) -> list[dict[str, Any]]:
    """Build a row per lane: its last evaluation, the mean of its last ones, its demonstrations' return and score."""
    assert run.summary
    summary, rows = run.summary, []
    random, expert = summary["random_return"], summary["expert_return"]
    by_seed = dict(list(evaluations.groupby("seed")))
    for seed, shown in zip(summary["seeds"], summary["demo_returns"], strict=True):
        own = by_seed[seed]
        last = {name: own[name].iloc[-1] for name in own}
        diverged, demo = not np.isfinite(last["return"]), np.nan if shown is None else float(shown)
        late = np.nan if diverged else late_mean(numbers(own, "step"), numbers(own, "score"))
        more = {"late_score": late, "demo_return": demo}
        more |= {"demo_score": normalised(np.asarray(demo), random, expert)}
        above = np.nan if shown is None else float(last["return"] > demo)
        rows.append({**last, **more, "above_demos": above, "diverged": diverged})
    return rows
