"""Report of a grid: csv, Markdown, LaTeX, PNG, and one HTML page that contains all of it and needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from aihf_control.core.config import as_word
from aihf_control.core.files import write_bytes
from aihf_control.report.figures import Picture, draw_figures
from aihf_control.report.formats import cell_text, format_csv, format_latex, format_markdown, frame_csv
from aihf_control.report.grid_results import BEGUN, CUT_SHORT, EXCLUDED, FINISHED, TO_DO, GridResults, Run
from aihf_control.report.load import load_grid
from aihf_control.report.tables import Table, build_tables, keys_of, label

LEFT_ALIGNED = {"method", "environment", "missing"}  # columns of words
UNFINISHED = {TO_DO: "have not begun", BEGUN: "are not finished", CUT_SHORT: "were cut short"}
Versions = dict[str, dict[str, str]]  # sets of versions by letter


@dataclasses.dataclass(frozen=True)
class Note:
    """A limit of the numbers, and the runs that it is about."""

    text: str
    runs: tuple[str, ...] = ()


def write_report(folder: Path) -> tuple[Path, list[Run]]:
    """Write a grid's report into its folder's `report`; return the page and the runs that were excluded.

    The same runs give the same bytes. In csv files, words that a spreadsheet would evaluate (a leading = + - @) get an
    apostrophe in front. Raises BadInput if grid.json is damaged or no run could be loaded.
    """
    grid, out = load_grid(folder), folder / "report"
    tables, figures = build_tables(grid), draw_figures(grid)
    write_bytes(out / "runs.csv", frame_csv(grid.lanes).encode())
    write_bytes(out / "evaluations.csv", frame_csv(grid.evaluations).encode())
    for table in tables:
        for end, text in (("csv", format_csv(table)), ("md", format_markdown(table)), ("tex", format_latex(table))):
            write_bytes(out / f"{table.name}.{end}", text.encode())
    for figure in figures:
        write_bytes(out / f"{figure.name}.png", figure.png)
    write_bytes(out / "page.html", render_page(grid, tables, figures).encode())
    return out / "page.html", [run for run in grid.runs if run.state == EXCLUDED]


def render_page(grid: GridResults, tables: list[Table], figures: list[Picture]) -> str:
    """Render the HTML page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    versions = find_versions(grid)
    runs = [_run_row(run, versions) for run in grid.runs]
    return environment.get_template("page.html").render(
        grid=grid,
        n_finished=sum(run.state == FINISHED for run in grid.runs),
        tables=tables,
        figures=[{**vars(f), "data": base64.b64encode(f.png).decode()} for f in figures],
        left_aligned=LEFT_ALIGNED,
        notes=list(find_notes(grid, versions)),
        runs=runs,
        run_columns=list(runs[0]),
        cell_text=cell_text,
        settings=_settings,
        versions=versions,
        version_names=list(dict.fromkeys(name for numbers in versions.values() for name in numbers)),
        data=_data_rows(grid),
    )


def find_versions(grid: GridResults) -> Versions:
    """Return the different sets of versions that runs were made with, by letter: A to Z, AA, AB, ..."""
    found = {_frozen(run.config["versions"]): run.config["versions"] for run in grid.runs if run.config}
    letters = ("".join(x) for n in itertools.count(1) for x in itertools.product(string.ascii_uppercase, repeat=n))
    return dict(zip(letters, found.values(), strict=False))


def _frozen(versions: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(versions.items())


def find_notes(grid: GridResults, versions: Versions) -> Iterator[Note]:
    """Yield the limits of the numbers: runs that are missing, excluded, diverged, or not made in the same way."""
    for state, what in UNFINISHED.items():
        runs = [run for run in grid.runs if run.state == state]
        if runs:
            yield Note(f"{len(runs)} of {len(grid.runs)} cells {what}; rows that need them are empty:", keys_of(runs))
    for run in grid.runs:
        if run.state == EXCLUDED:
            yield Note(f"excluded: cells/{run.key}: {run.reason}; rows that need it are empty:", (run.key,))
    diverged = grid.lanes[grid.lanes["diverged"]]
    if len(diverged):
        text = f"{len(diverged)} of {len(grid.lanes)} runs diverged; they count as a score of 0:"
        yield Note(text, tuple(dict.fromkeys(diverged["cell"])))
    done = [run for run in grid.runs if run.summary]
    overvalued = [run for run in done if run.summary and run.summary["overvalued"]]
    if overvalued:
        yield Note("the critics of some runs claim more than any policy can earn:", keys_of(overvalued))
    yield from _mixture_notes(done, versions)


def _mixture_notes(done: list[Run], versions: Versions) -> Iterator[Note]:
    """Yield a note for versions, code and data that are not the same in all runs."""
    if len(versions) > 1:
        yield Note(f"the runs were made with {len(versions)} sets of versions:")
    older = [run for run in done if run.code and run.code != _code_of(run)]
    if older:
        text = f"{len(older)} of {len(done)} cells come from other code than the package had when the bench last ran:"
        yield Note(text, keys_of(older))
    for what, kinds in (("code", _by_code(done)), ("data", _by_data(done))):
        for name, values in kinds.items():
            if len(values) > 1:
                yield Note(f"the {what} of {name} is not the same in all its runs: {', '.join(sorted(values))}")


def _code_of(run: Run) -> str:
    return run.key.partition("-")[2]


def _by_code(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.name, set()).add(_code_of(run))
    return found


def _by_data(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        assert run.config and run.summary
        found.setdefault(str(run.config["dataset"].get("folder")), set()).add(run.summary["dataset"])
    return found


def _run_row(run: Run, versions: Versions) -> dict[str, Any]:
    """Build a cell's row in the list of runs."""
    config, summary = run.config or {}, run.summary or {}
    cell = config.get("cell", {})
    row: dict[str, Any] = {"cell": run.key, "state": run.state, "method": run.name, "environment": run.env}
    row |= {label(name): as_word(value) for name, value in run.swept.items()}
    row |= {"seeds": " ".join(map(str, cell.get("seeds", ()))) or run.n}
    row |= {name: " ".join(map(str, summary.get(name, ()))) or "-" for name in ("diverged", "overvalued")}
    row |= {"steps": summary.get("steps", "-"), "data": config.get("dataset", {}).get("digest", "-")}
    row |= {"products": f"{cell['products']} on {cell['device']}" if cell else "-", "commit": config.get("commit", "-")}
    letter = next((letter for letter, numbers in versions.items() if numbers == config.get("versions")), "-")
    return row | {"versions": letter}


def _data_rows(grid: GridResults) -> list[tuple[str, str, str]]:
    """Return digest, file and hash of every file of every dataset."""
    datasets = [run.config["dataset"] for run in grid.runs if run.config]
    rows = [(d["digest"], name, value) for d in datasets for name, value in sorted(d["sha256"].items())]
    return list(dict.fromkeys(rows))


def _settings(run: Run) -> str:
    assert run.config
    return json.dumps({name: run.config[name] for name in ("options", "cell", "dataset")}, indent=1)
