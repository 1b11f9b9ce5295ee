"""Loader of a grid's runs: a frame with a row per lane, and a frame with a row per lane and evaluation.

Each cell of the grid becomes a `Run`. A cell whose files are damaged is excluded with the reason; it stops neither the
other cells nor the report.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.config import as_word, override
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes
from aihf_control.core.statistics import late_mean, normalised
from aihf_control.report.columns import COLUMNS, OPTIONAL, LogColumn
from aihf_control.report.config import ReportConfig

Array = np.ndarray
Setting = dict[str, Any]  # a value of every swept factor
FINISHED, CUT_SHORT, BEGUN, TO_DO, EXCLUDED = "finished", "cut short", "begun", "to do", "excluded"
KEY = re.compile(r"[\w+-][\w.+-]*")  # of a cell: a folder's name, and part of links and LaTeX comments
LARGEST = 1e100  # numbers beyond it cannot be drawn
RESERVED = {"cell", "env", "method", "environment", "score", *(column.name for column in COLUMNS)}
KINDS = {"name": str, "title": str, "about": str, "report": dict, "cells": list, "file": str}
CELL_KINDS = {"key": str, "env": str, "name": str, "method": str, "seeds": int, "dials": dict}
CONFIG_KINDS = {"options": dict, "cell": dict, "dataset": dict, "versions": dict}
SPEC_KINDS = {"seeds": list, "products": str, "device": str}
DATASET_KINDS = {"digest": str, "sha256": dict}
SUMMARY_KINDS = {"seeds": list, "steps": int, "interrupted": bool, "dataset": str, "overvalued": list}
SUMMARY_KINDS |= {"diverged": list, "random_return": float, "expert_return": float, "demo_returns": list}


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid and, if it has finished, the files of its run."""

    key: str
    env: str
    name: str
    """Name of the method in the experiment."""
    swept: Setting
    """Value of every swept factor."""
    n: int
    """Number of seeds."""
    state: str
    """finished, cut short, begun, to do or excluded."""
    reason: str = ""
    """Why it is excluded."""
    code: str | None = None
    """Hash of the package's code when the bench last ran the grid; None if grid.json has none."""
    config: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class GridResults:
    """A grid and its runs."""

    folder: Path
    name: str
    title: str
    about: str
    file: str
    """Text of the experiment file."""
    report: ReportConfig
    runs: list[Run]
    swept: list[str]
    """Names of the swept factors."""
    lanes: pd.DataFrame
    """A row per lane of a finished run: cell, env, method, swept factors, seed, return, score, late_score, ..."""
    evaluations: pd.DataFrame
    """A row per lane and evaluation: cell, env, method, swept factors, seed, step, env_steps, return, score, ..."""

    @functools.cached_property
    def envs(self) -> list[str]:
        return list(dict.fromkeys(run.env for run in self.runs))

    @functools.cached_property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run.name for run in self.runs))

    @functools.cached_property
    def settings(self) -> list[Setting]:
        """Every combination of values of the swept factors, once."""
        values = dict.fromkeys(self.values_of(run.swept) for run in self.runs)
        return [dict(zip(self.swept, x, strict=True)) for x in values]

    def values_of(self, setting: Setting) -> tuple[Any, ...]:
        """Return a setting's values in the order of the swept factors."""
        return tuple(setting[name] for name in self.swept)

    def select(self, method: str, setting: Setting, env: str | None = None) -> list[Run]:
        """Return the runs of a method in a setting, of one environment or of all."""
        return self._runs_by_place.get((method, self.values_of(setting), env), [])

    def scores(self, method: str, setting: Setting, column: str = "score", env: str | None = None) -> Array | None:
        """Return a column as (lanes, environments), 0 for lanes that diverged; None unless all runs have finished."""
        runs = self.select(method, setting, env)
        if not runs or any(run.state != FINISHED for run in runs):
            return None
        scores = np.stack([numbers(self._lanes_by_cell[run.key], column) for run in runs], 1)
        return np.where(np.isfinite(scores), scores, 0.0)

    def lanes_of(self, runs: Iterable[Run]) -> pd.DataFrame:
        """Return the rows of `lanes` of some runs; runs that have not finished have none."""
        frames = [self._lanes_by_cell[run.key] for run in runs if run.key in self._lanes_by_cell]
        return frames[0] if len(frames) == 1 else pd.concat(frames) if frames else self.lanes.iloc[:0]

    def evaluations_of(self, run: Run) -> pd.DataFrame | None:
        """Return the rows of `evaluations` of a run; None if it has not finished."""
        return self._evaluations_by_cell.get(run.key)

    @functools.cached_property
    def _runs_by_place(self) -> dict[tuple[str, tuple[Any, ...], str | None], list[Run]]:
        places: dict[tuple[str, tuple[Any, ...], str | None], list[Run]] = {}
        for run in self.runs:
            for env in (run.env, None):
                places.setdefault((run.name, self.values_of(run.swept), env), []).append(run)
        return places

    @functools.cached_property
    def _lanes_by_cell(self) -> dict[Any, pd.DataFrame]:
        return dict(list(self.lanes.groupby("cell", sort=False)))

    @functools.cached_property
    def _evaluations_by_cell(self) -> dict[Any, pd.DataFrame]:
        return dict(list(self.evaluations.groupby("cell", sort=False)))


def load_grid(folder: Path) -> GridResults:
    """Load a grid's folder, excluding cells whose files are damaged.

    Raises BadInput if grid.json is damaged, or if no run could be loaded.
    """
    path = folder / "grid.json"
    grid = checked(read_table(path), KINDS, path)
    loaded = [_load_run(folder, run) for run in _cells(grid["cells"], path)]
    runs = [run for run, _ in loaded]
    logs = {run.key: log for run, log in loaded if log is not None}
    if not logs:
        excluded = [run for run in runs if run.state == EXCLUDED]
        more = f" ({len(excluded)} are excluded, the first because: {excluded[0].reason})" if excluded else ""
        raise BadInput(f"no finished run in {folder}{more}; run it with `python -m aihf_control.bench`")
    report = override(ReportConfig(), grid["report"], f"{path}, report")
    about = {name: grid[name] for name in ("name", "title", "about", "file")}
    done = [run for run in runs if run.key in logs]
    frames = [_evaluations(run, logs[run.key]) for run in done]
    lanes = pd.DataFrame([row for run, frame in zip(done, frames, strict=True) for row in _lane_rows(run, frame)])
    evaluations = pd.concat(frames, ignore_index=True)
    swept = list(runs[0].swept)
    first = [*_place(done[0]), *(c.name for c in COLUMNS if c.required), "score"]
    first += [c.name for c in OPTIONAL if c.name in evaluations]
    lanes = lanes.reindex(columns=[*first, *(name for name in lanes if name not in first)])
    return GridResults(
        folder,
        **about,
        report=report,
        runs=runs,
        swept=swept,
        lanes=lanes,
        evaluations=evaluations.reindex(columns=first),
    )


# ------------------------------------------------------------------------------------------------------ checked files


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table. Raises BadInput if it cannot be read, parsed or printed."""
    if path.exists() and not path.is_file():
        raise BadInput(f"cannot read {path}: not a regular file")
    table = _parse(read_bytes(path), str(path))
    if not isinstance(table, dict):
        raise BadInput(f"{path} is damaged: it holds no table")
    return table


def _parse(data: bytes, where: str) -> Any:
    """Parse JSON. Raises BadInput if it is invalid, too deeply nested, or has characters that cannot be written."""
    try:
        tree = json.loads(data)
        json.dumps(tree, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:
        reason = " ".join(str(e).split())[:100]
        raise BadInput(f"{where} is not valid JSON: {reason}") from e
    return tree


def checked(given: Any, kinds: dict[str, type], where: Any) -> dict[str, Any]:
    """Return a table that has these fields with these types. Raises BadInput with the names of the others."""
    fields = given if isinstance(given, dict) else {}
    wrong = sorted(name for name, kind in kinds.items() if not _is(fields.get(name), kind))
    if wrong:
        raise BadInput(f"{where} is damaged, or of another version: {', '.join(wrong)} missing or wrong")
    return fields


def _is(x: Any, kind: type) -> bool:
    return is_number(x) if kind is float else type(x) is kind


def is_number(x: Any) -> bool:
    """Whether a JSON value is a finite number that can be computed with."""
    return isinstance(x, int | float) and not isinstance(x, bool) and -LARGEST <= x <= LARGEST


def _all_strings(table: dict[str, Any]) -> bool:
    return all(isinstance(x, str) for x in table.values())


def _cells(cells: list[Any], path: Path) -> list[Run]:
    """Build the runs, not yet begun, of the cells of grid.json. Raises BadInput for cells that make no grid."""
    runs = [_cell(checked(cell, CELL_KINDS, f"{path}, a cell,"), path) for cell in cells]
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


def _load_run(folder: Path, run: Run) -> tuple[Run, pd.DataFrame | None]:
    """Load the run of a cell, and its log if it has finished. A damaged one is excluded, with the reason."""
    try:
        return _read_run(folder / "cells" / run.key, run)
    except (BadInput, OSError) as e:
        return dataclasses.replace(run, state=EXCLUDED, reason=str(e)), None


def _read_run(where: Path, run: Run) -> tuple[Run, pd.DataFrame | None]:
    if not any((where / name).exists() for name in ("config.json", "summary.json")):
        return run, None
    config = _read_config(where / "config.json")
    if not (where / "summary.json").exists():
        return dataclasses.replace(run, state=BEGUN, config=config), None
    summary = _read_summary(where / "summary.json", run)
    run = dataclasses.replace(
        run, state=CUT_SHORT if summary["interrupted"] else FINISHED, config=config, summary=summary
    )
    return run, _complete_log(where / "log.jsonl", summary) if run.state == FINISHED else None


def _read_config(path: Path) -> dict[str, Any]:
    config = checked(read_table(path), CONFIG_KINDS, path)
    checked(config["cell"], SPEC_KINDS, f"{path}, cell,")
    checked(config["dataset"], DATASET_KINDS, f"{path}, dataset,")
    if not _all_strings(config["versions"]) or not _all_strings(config["dataset"]["sha256"]):
        raise BadInput(f"{path} is damaged: its versions or its sha256 are no words")
    return config


def _read_summary(path: Path, run: Run) -> dict[str, Any]:
    summary = checked(read_table(path), SUMMARY_KINDS, path)
    seeds = [seed for name in ("seeds", "diverged", "overvalued") for seed in summary[name]]
    if any(type(seed) is not int for seed in seeds) or len(set(summary["seeds"])) < len(summary["seeds"]):
        raise BadInput(f"{path} is damaged: its seeds are not different whole numbers")
    if not len(summary["seeds"]) == len(summary["demo_returns"]) == run.n:
        raise BadInput(f"{path} is not of this grid: it has {len(summary['seeds'])} seeds, not {run.n}")
    if not all(x is None or is_number(x) for x in summary["demo_returns"]):
        raise BadInput(f"{path} is damaged: its demo_returns are no numbers")
    if summary["random_return"] == summary["expert_return"]:
        raise BadInput(f"{path}: random_return equals expert_return, so that scores are undefined")
    return summary


def _complete_log(path: Path, summary: dict[str, Any]) -> pd.DataFrame:
    """Read the log of a finished run. Raises BadInput unless all seeds have the same steps, up to the last one."""
    log, seeds = read_log(path), summary["seeds"]
    steps = {seed: rows["step"].tolist() for seed, rows in log.groupby("seed")}
    if set(steps) != set(seeds):
        raise BadInput(f"{path} has seeds {' '.join(map(str, steps))}, and its run has {' '.join(map(str, seeds))}")
    if any(steps[seed] != steps[seeds[0]] or steps[seed][-1] != summary["steps"] for seed in seeds):
        raise BadInput(f"{path} is not complete: its seeds are not all evaluated to step {summary['steps']}")
    return log


def read_log(path: Path) -> pd.DataFrame:
    """Read a run's log, sorted by seed and step. Raises BadInput with the line that is damaged."""
    if path.exists() and not path.is_file():
        raise BadInput(f"cannot read {path}: not a regular file")
    rows = []
    for i, line in enumerate(read_bytes(path).splitlines(), 1):
        row = _parse(line, f"{path}, line {i},")
        wrong = [c.name for c in COLUMNS if not _fits(row, c)]
        if wrong:
            raise BadInput(f"{path}, line {i}, is not of a run's log: {', '.join(wrong)} missing or wrong")
        rows.append(row)
    if not rows:
        raise BadInput(f"{path} is empty")
    columns = [c for c in COLUMNS if c.required or any(c.name in row for row in rows)]
    log = pd.DataFrame({c.name: _column(rows, c) for c in columns})
    log = log.drop_duplicates(["seed", "step"], keep="last")
    return log.sort_values(["seed", "step"], kind="stable", ignore_index=True)


def _fits(row: Any, column: LogColumn) -> bool:
    """Whether a line of a log has the column's value, or may lack it."""
    if not isinstance(row, dict) or column.name not in row:
        return isinstance(row, dict) and not column.required
    x = row[column.name]
    if column.kind == "count":
        return is_number(x) and x == int(x) and 0 <= x < 2**53
    return x is None or is_number(x) or (isinstance(x, float) and not math.isfinite(x))


def _column(rows: Sequence[dict[str, Any]], column: LogColumn) -> Array:
    if column.kind == "count":
        return np.array([int(row[column.name]) for row in rows], np.int64)
    values = [row.get(column.name) for row in rows]
    return np.array([np.nan if x is None or not math.isfinite(x) else x for x in values], np.float64)


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


def method_row(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a run's summary with the result of its last policy, named after the method. Raises BadInput."""
    for row in reversed(summary["rows"]):
        if row["name"] == summary["method"]:
            return row
    raise BadInput(f"the summary has no row of its method, {summary['method']}")


def numbers(frame: pd.DataFrame, column: str) -> Array:
    """Return a column as floats, NaN where it is missing."""
    return np.asarray(frame[column], np.float64)


def finite(frame: pd.DataFrame, column: str) -> Array:
    """Return the finite numbers of a column."""
    x = numbers(frame, column)
    return x[np.isfinite(x)]
