"""Report of a folder: the grids below it, and a table and a figure of the runs that belong to no grid.

A grid or run that cannot be reported is excluded by name, with the reason; it does not stop the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import STAR_NOTE, Estimate, format_count, iqm
from aihf_control.core.text import count
from aihf_control.report.formats import escape_markdown
from aihf_control.report.grid_results import numbers
from aihf_control.report.page import Written, write_report
from aihf_control.report.plotting import (
    CLONE_LINE,
    WIDE,
    arrange,
    bytes_of,
    draw_band,
    draw_marks,
    draw_references,
    finish_axes,
    legend_text,
    line_of,
    make_panels,
    plain_text,
)
from aihf_control.report.run_files import Array, check_fields, is_number, method_row, read_log, read_table
from aihf_control.report.styles import style_of

HEAD = ("return", "score", "n", "env_steps", "labels", "pair_accuracy", "rank_correlation")
KINDS = {"env": str, "method": str, "demos": int, "pairs": int, "dataset": str, "steps": int, "interrupted": bool}
KINDS |= {"diverged": list, "rows": list}
RUN_FILES = ("summary.json", "config.json", "log.jsonl")  # a folder with any of these is a run's
PANELS = 48  # of the figure


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that belongs to no grid: its folder, its summary and its log."""

    folder: Path
    summary: dict[str, Any]
    log: pd.DataFrame

    @property
    def data(self) -> tuple[str, int, int, str]:
        """Environment, demonstrations, comparisons and dataset; runs with the same are compared."""
        return self.summary["env"], self.summary["demos"], self.summary["pairs"], self.summary["dataset"]

    @property
    def row(self) -> dict[str, Any]:
        """The row of the summary with the result of the last policy."""
        return method_row(self.summary)


def report_folder(folder: Path) -> None:
    """Report every grid below `folder` and all runs there that belong to none.

    Prints a line per page and per claim, and the names of the excluded.

    Raises BadInput if there is no run, or none that can be reported.
    """
    grids, runs = find_grids_and_runs(folder)
    if not grids and not runs:
        raise BadInput(f"no finished run below {folder}; make some with `python -m aihf_control.run --out {folder}`")
    excluded: list[str] = []
    written = [report for grid in grids if (report := _report_grid(grid, excluded))]
    loaded = [run for path in runs if (run := _load_run(path, excluded))]
    if not written and not loaded:
        first, more = excluded[0].removeprefix("excluded: "), len(excluded) - 1
        raise BadInput(f"no run below {folder} can be reported: {first}{f' (and {more} more)' if more else ''}")
    for report in written:
        print("\n".join([f"report: {report.page}", *(f"  {line}" for line in report.claims)]))
    if loaded:
        print(report_runs(folder, loaded, excluded))
    elif excluded:
        print("\n".join(excluded))


def find_grids_and_runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of the grids below a folder, and those of the runs there that belong to no grid."""
    grids = sorted({path.parent for path in folder.rglob("grid.json")})
    others = {path.parent for name in RUN_FILES for path in folder.rglob(name)}
    return grids, sorted(run for run in others if not any(run.is_relative_to(grid) for grid in grids))


def _report_grid(grid: Path, excluded: list[str]) -> Written | None:
    """Write a grid's report; add a line to `excluded` for the grid or for each of its runs that cannot be reported."""
    try:
        written = write_report(grid)
    except BadInput as e:
        excluded.append(f"excluded: {grid}: {e}")
        return None
    excluded += [f"excluded: {grid / 'cells' / run.key}: {run.reason}" for run in written.excluded]
    return written


def _load_run(folder: Path, excluded: list[str]) -> FinishedRun | None:
    """Load a run; add a line to `excluded` if it cannot be reported."""
    try:
        return load_run(folder)
    except BadInput as e:
        excluded.append(f"excluded: {folder}: {e}")
        return None


def load_run(folder: Path) -> FinishedRun:
    """Load a run that belongs to no grid. Raises BadInput if it is not finished or its files are damaged."""
    path = folder / "summary.json"
    if not path.exists():
        raise BadInput("the run is not finished: it has no summary.json")
    summary = check_fields(read_table(path), KINDS, path)
    rows = summary["rows"]
    if len(rows) < 3 or not all(map(_is_row, rows)) or not rows[0].get("return"):
        raise BadInput(f"{path} is not a run's summary: its rows are wrong")
    method_row(summary)  # raises if there is none
    return FinishedRun(folder, summary, read_log(folder / "log.jsonl"))


def _is_row(row: Any) -> bool:
    """Whether a row has a name, and its cells are empty, numbers or estimates."""
    named = isinstance(row, dict) and isinstance(row.get("name"), str)
    if not named or not isinstance(row.get("n"), int | None):
        return False
    return all(_is_cell(row.get(name)) for name in HEAD) and isinstance(row.get("return"), dict | None)


def _is_cell(x: Any) -> bool:
    if isinstance(x, dict):
        return set(x) == set(Estimate._fields) and all(v is None or is_number(v) for v in x.values())
    return x is None or is_number(x)


# -------------------------------------------------------------------------------------------------------------- table


def report_runs(folder: Path, runs: Sequence[FinishedRun], excluded: Sequence[str] = ()) -> str:
    """Write the table and the figure of runs into `folder`; return the table."""
    groups = _group(runs)
    notes = [f"curves.png shows the first {PANELS} of {len(groups)} datasets."] if len(groups) > PANELS else []
    text = format_table(groups, [*notes, *excluded])
    write_bytes(folder / "table.md", text.encode())
    with plain_text():
        fig = draw_runs(groups[:PANELS])
        for kind in ("png", "svg", "pdf"):
            write_bytes(folder / f"curves.{kind}", bytes_of(fig, kind))
    return text


def _group(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Return the runs in groups with the same environment and data."""
    groups: dict[tuple, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return list(groups.values())


def format_table(groups: Sequence[Sequence[FinishedRun]], notes: Sequence[str] = ()) -> str:
    """Format Markdown: for each group its references, then a row per run, best score first; then the notes."""
    lines = []
    for group in groups:
        env, demos, pairs, dataset = group[0].data
        shown = f"{count(demos, 'demonstration')} and {count(pairs, 'comparison')} a seed"
        lines += [f"**{escape_markdown(env)}**, {shown} (dataset {escape_markdown(dataset)})", ""]
        lines += [f"| | {' | '.join(name.replace('_', ' ') for name in HEAD)} | diverged |"]
        lines += ["|---" * (len(HEAD) + 2) + "|"]
        lines += [_table_line(row, "") for row in group[0].summary["rows"][:-2]]
        for run in sorted(group, key=_score, reverse=True):
            s = run.summary
            cut = ", cut short" if s["interrupted"] else ""
            row = {**run.row, "name": f"{s['method']} ({s['steps']:,} iterations{cut})"}
            lines.append(_table_line(row, str(len(s["diverged"]))))
        lines.append("")
    lines += [STAR_NOTE, ""]
    return "\n".join([*lines, *(f"{escape_markdown(note)}\n" for note in notes)])


def _score(run: FinishedRun) -> float:
    score = run.row.get("score")
    value = score.get("value") if isinstance(score, dict) else score
    return -np.inf if value is None else value


def _table_line(row: dict[str, Any], diverged: str) -> str:
    cells = [_cell_text(name, row.get(name)) for name in HEAD]
    return f"| {escape_markdown(row['name'])} | {' | '.join(cells)} | {diverged} |"


def _cell_text(name: str, x: Any) -> str:
    if isinstance(x, dict):
        return str(Estimate.read(x))
    if x is None:
        return "-"
    return format_count(x) if name == "n" else f"{x:,}"


# ------------------------------------------------------------------------------------------------------------- figure


def draw_runs(groups: Sequence[Sequence[FinishedRun]]) -> Figure:
    """Draw a panel per group: each run's return over its environment steps, IQM and range over its lanes."""
    fig, axes = make_panels(len(groups))
    for ax, group in zip(axes, groups, strict=True):
        _draw_group(ax, group)
    arrange(fig, WIDE)
    return fig


def _draw_group(ax: Any, group: Sequence[FinishedRun]) -> None:
    marks: dict[str, tuple[float, Estimate]] = {}
    for run in group:
        method, (steps, returns) = run.summary["method"], finite_curve(run.log)
        taken = {step: numbers(rows, "env_steps").max() for step, rows in run.log.groupby("step")}
        found = {
            float(taken[int(step)]): Estimate(float(iqm(x)), x.min(), x.max(), len(x))
            for step, x in zip(steps, returns, strict=True)
            if x.size
        }
        if len(found) > 1:
            draw_band(ax, found, method)
        elif found:
            marks[method] = next(iter(found.items()))
        else:
            ax.plot([], [], label=f"{legend_text(method)} (all seeds diverged)", **line_of(style_of(method)))
    draw_marks(ax, marks)
    start = next((row["return"] for row in group[0].summary["rows"] if row["name"] == CLONE_LINE), None)
    draw_references(ax, start and start["value"], at=group[0].summary["rows"][0]["return"]["value"])
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    env, demos, pairs, _ = group[0].data
    finish_axes(ax, f"{env}: {demos} demos, {pairs} pairs", "environment steps", "greedy return")


def finite_curve(log: pd.DataFrame) -> tuple[Array, Array]:
    """Return steps (K,) and returns (K, lanes) of the lanes that never diverged, at the steps that all of them have."""
    wide = log.pivot(index="step", columns="seed", values="return")
    diverged = log.groupby("seed")["return"].apply(lambda returns: returns.isna().any())
    wide = wide.loc[:, ~diverged].dropna()
    return wide.index.to_numpy(), wide.to_numpy()
