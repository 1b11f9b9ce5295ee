"""Check of finished runs: every number that their logs determine is computed again and compared with what is stated.

The logs hold the returns of all evaluation episodes. They do not hold the returns of the demonstrations and of the
expert's and the random policy's episodes, so `NOT_RECOMPUTED` is only checked for being the same in all files.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.files import read_bytes
from aihf_control.core.statistics import Estimate, estimate, iqm, late_mean, normalised
from aihf_control.report.grid_results import numbers
from aihf_control.report.load import load_grid
from aihf_control.report.page import format_files
from aihf_control.report.run_files import check_fields, read_complete_log, read_config, read_summary, read_table
from aihf_control.report.tables import build_tables

Array = np.ndarray
TOLERANCE = 1e-9  # relative; sums in another order differ by less
NOT_RECOMPUTED = (
    "the returns of the expert, of random actions and of the demonstrations, and the intervals of the expert and the "
    "demonstrations"
)
ROW_NUMBERS = ("env_steps", "labels")
QUALITY = ("pair_accuracy", "rank_correlation")


class Compared(NamedTuple):
    """A number as a file states it, and as it is computed from the log."""

    where: str
    stated: Any
    computed: Any

    @property
    def agrees(self) -> bool:
        """Whether both are the same number up to rounding, or both are missing."""
        x, y = (np.nan if v is None else v for v in (self.stated, self.computed))
        if not all(isinstance(v, int | float) for v in (x, y)):
            return x == y
        return (math.isnan(x) and math.isnan(y)) or math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

    def __str__(self) -> str:
        return f"{self.where} is {self.stated}, but the log gives {self.computed}"


def check_folder(folder: Path) -> tuple[int, int]:
    """Check all finished runs and all reports of grids below a folder; return the numbers of runs and of numbers.

    Raises BadLines with a line per fault, or BadInput if there is no finished run.
    """
    runs = sorted(path.parent for path in folder.rglob("summary.json"))
    if not runs:
        raise BadInput(f"no finished run below {folder}: there is no summary.json")
    faults: list[str] = []
    n = 0
    for run in runs:
        n += _collect(faults, run)
    for grid in sorted(path.parent for path in folder.rglob("grid.json")):
        faults += _report_faults(grid)
    faults += _reference_faults(runs)
    if faults:
        raise BadLines(str(folder), faults)
    return len(runs), n


def _collect(faults: list[str], run: Path) -> int:
    """Add a line to `faults` for each number of a run that does not agree; return how many were compared."""
    n = 0
    try:
        for one in compare_run(run):
            n += 1
            faults += [] if one.agrees else [f"{run}: {one}"]
    except BadInput as e:
        faults.append(str(e) if str(run) in str(e) else f"{run}: {e}")
    return n


# ---------------------------------------------------------------------------------------------------------------- runs


def compare_run(run: Path) -> Iterator[Compared]:
    """Yield every number of a run's log and summary that the log determines. Raises BadInput for a damaged file."""
    config = read_config(run / "config.json")
    seeds = config["cell"]["seeds"]
    summary = read_summary(run / "summary.json", len(seeds))
    if summary["interrupted"]:
        raise BadInput("the run was cut short; only finished runs are checked")
    log = read_complete_log(run / "log.jsonl", summary)
    yield from _compare_settings(config, summary)
    yield from _compare_episodes(run / "log.jsonl")
    last = log.groupby("seed", sort=False).tail(1).set_index("seed").loc[seeds]
    returns = numbers(last, "return")
    diverged = [seed for seed, x in zip(seeds, returns, strict=True) if not np.isfinite(x)]
    yield Compared("diverged in summary.json", summary["diverged"], diverged)
    yield Compared("steps in summary.json", summary["steps"], int(numbers(last, "step").min()))
    yield from _compare_rows(summary, log, last)


def _compare_settings(config: dict[str, Any], summary: dict[str, Any]) -> Iterator[Compared]:
    """Yield what config.json and summary.json both state."""
    cell, options = config["cell"], config["options"]
    yield Compared("seeds in summary.json", summary["seeds"], cell["seeds"])
    yield Compared("dataset in summary.json", summary["dataset"], config["dataset"]["digest"])
    for name, value in (("env", options.get("env")), *((n, cell.get(n)) for n in ("method", "demos", "pairs"))):
        yield Compared(f"{name} in summary.json", summary.get(name), value)


def _compare_episodes(path: Path) -> Iterator[Compared]:
    """Yield the return of each line of the log beside the mean of its episodes' returns."""
    for i, line in enumerate(read_bytes(path).splitlines(), 1):
        row = json.loads(line)
        episodes = row.get("returns")
        if (
            not isinstance(episodes, list)
            or not episodes
            or not all(isinstance(x, int | float | None) for x in episodes)
        ):
            raise BadInput(f"{path}, line {i}, has no returns of episodes, so its return cannot be checked")
        mean = float(np.mean([np.nan if x is None else x for x in episodes]))
        yield Compared(f"return in line {i} of log.jsonl", row["return"], mean)


def _compare_rows(summary: dict[str, Any], log: pd.DataFrame, last: pd.DataFrame) -> Iterator[Compared]:
    """Yield the numbers of the rows of summary.json. Raises BadInput for other rows than a run writes."""
    rows = check_fields(summary, {"rows": list, "method": str}, "summary.json")["rows"]
    if not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
        raise BadInput("the rows of summary.json are wrong")
    method, returns = summary["method"], numbers(last, "return")
    alive = np.isfinite(returns)
    late_row = next((row for row in rows if row["name"] == f"{method}, last 5 means"), {})
    start = numbers(log.loc[log["step"] == 0], "return")
    known = {"clone (bc)": start, method: returns[alive], f"{method}, last 5 means": _late(log, late_row)[alive]}
    for row in rows:
        where = f"{row['name']} in summary.json"
        if row["name"] in known:
            yield from _compare_returns(row, known[row["name"]], summary, where)
        if row["name"] in (method, f"{method}, last 5 means"):
            for name in ROW_NUMBERS:
                yield Compared(f"{name} of {where}", row.get(name), int(numbers(last, name).max()))
        if row["name"] == method and alive.any():
            for name in (name for name in QUALITY if name in last):
                yield from _compare_estimates(row.get(name), estimate(numbers(last, name)[alive]), f"{name} of {where}")
    missing = [name for name in (method, f"{method}, last 5 means") if name not in {row["name"] for row in rows}]
    if missing:
        raise BadInput(f"summary.json has no row {missing[0]!r}")
    yield Compared("return of the expert in summary.json", _value_of(rows[0], "return"), summary["expert_return"])


def _late(log: pd.DataFrame, row: dict[str, Any]) -> Array:
    """Return the mean of each seed's last evaluations, without step 0.

    Runs of earlier versions that had few evaluations counted step 0, too; if that gives what `row` states, it is
    returned. Reports never read that row.
    """
    lanes = [(numbers(own, "step"), numbers(own, "return")) for _, own in log.groupby("seed", sort=False)]
    late = np.array([late_mean(steps, returns) for steps, returns in lanes])
    earlier = np.array([late_mean(steps + 1, returns) for steps, returns in lanes])
    stated = _value_of(row, "return")
    alive = np.isfinite(earlier)
    is_earlier = alive.any() and Compared("", stated, float(iqm(earlier[alive]))).agrees
    return earlier if is_earlier else late


def _compare_returns(row: dict[str, Any], returns: Array, summary: dict[str, Any], where: str) -> Iterator[Compared]:
    yield Compared(f"n of {where}", row.get("n"), len(returns))
    if len(returns):
        score = normalised(returns, summary["random_return"], summary["expert_return"])
        yield from _compare_estimates(row.get("return"), estimate(returns), f"return of {where}")
        yield from _compare_estimates(row.get("score"), estimate(score), f"score of {where}")


def _compare_estimates(stated: Any, computed: Estimate, where: str) -> Iterator[Compared]:
    for name, value in computed._asdict().items():
        yield Compared(f"{name} of {where}", stated.get(name) if isinstance(stated, dict) else None, value)


def _value_of(row: dict[str, Any], name: str) -> Any:
    return row[name].get("value") if isinstance(row.get(name), dict) else None


# ------------------------------------------------------------------------------------------------------- several runs


def _reference_faults(runs: list[Path]) -> list[str]:
    """Return a line for each dataset whose runs state different returns of the expert or of random actions."""
    stated: dict[str, dict[tuple[Any, Any], Path]] = {}
    for run in runs:
        summary = read_table(run / "summary.json")
        pair = summary.get("random_return"), summary.get("expert_return")
        stated.setdefault(str(summary.get("dataset")), {}).setdefault(pair, run)
    return [
        f"dataset {dataset}: its runs state different returns of the expert or of random actions, in "
        f"{' and '.join(str(run) for run in list(found.values())[:2])}"
        for dataset, found in stated.items()
        if len(found) > 1
    ]


def _report_faults(folder: Path) -> list[str]:
    """Return a line for each csv of a grid's report with a row that the logs do not give; rows without result pass."""
    try:
        grid = load_grid(folder).with_results()
    except BadInput as e:
        return [f"{folder}: {e}"]
    faults = []
    for name, text in format_files(grid, build_tables(grid)).items():
        path = folder / "report" / name
        if name.endswith(".csv") and path.is_file():
            wrong = _rows_of(read_bytes(path).decode(errors="replace")) - _rows_of(text)
            faults += [f"{path}: {len(wrong)} rows are not what the logs give; make the report again"] * bool(wrong)
    return faults


def _rows_of(text: str) -> set[frozenset[tuple[str, str]]]:
    """Return the rows of a csv as sets of columns and values, without empty values and rows that lack results."""
    head, *rows = csv.reader(text.splitlines())
    tables = ({k: v for k, v in zip(head, row, strict=False) if v != ""} for row in rows)
    return {frozenset(row.items()) for row in tables if "missing" not in row}
