"""The report of a grid: csv, markdown, LaTeX, PNG, and one HTML page that holds all of it and needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from aihf_control.core.config import as_word
from aihf_control.core.files import write_bytes
from aihf_control.report.figures import Picture, figures_of
from aihf_control.report.load import GridResults, Run, load_grid
from aihf_control.report.tables import Table, cell_text, csv, label, latex, markdown, tables_of

WORDS = {"method", "environment", "missing"}  # columns that hold words
STATES = ("finished", "cut short", "begun", "to do")


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that a reader should know before believing a number, and the runs that it is about."""

    text: str
    runs: tuple[str, ...]


def write_report(folder: Path) -> Path:
    """Writes a grid's report into its folder's `report`. The same runs give the same bytes. Returns the page."""
    grid, out = load_grid(folder), folder / "report"
    tables, figures = tables_of(grid), figures_of(grid)
    write_bytes(out / "runs.csv", grid.lanes.to_csv(index=False, lineterminator="\n").encode())
    write_bytes(out / "evaluations.csv", grid.evaluations.to_csv(index=False, lineterminator="\n").encode())
    for table in tables:
        for end, text in (("csv", csv(table)), ("md", markdown(table)), ("tex", latex(table))):
            write_bytes(out / f"{table.name}.{end}", text.encode())
    for figure in figures:
        write_bytes(out / f"{figure.name}.png", figure.png)
    write_bytes(out / "page.html", page(grid, tables, figures).encode())
    return out / "page.html"


def page(grid: GridResults, tables: list[Table], figures: list[Picture]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    sheet = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html"
    )
    versions = versions_of(grid)
    runs = [_about(run, versions) for run in grid.runs]
    pictures = [{**vars(f), "data": base64.b64encode(f.png).decode()} for f in figures]
    shown = {
        "grid": grid,
        "tables": tables,
        "figures": pictures,
        "words": WORDS,
        "notes": list(notes_of(grid, versions)),
    }
    shown |= {"runs": runs, "run_columns": list(runs[0]), "cell_text": cell_text, "settings": _settings}
    shown |= {"versions": list(versions.items()), "data": _data(grid)}
    return sheet.render(shown, n_finished=sum(run.state == "finished" for run in grid.runs))


def versions_of(grid: GridResults) -> dict[str, dict[str, str]]:
    """The sets of versions that runs were made with, by letter."""
    found: list[dict[str, str]] = []
    for run in grid.runs:
        if run.config and run.config["versions"] not in found:
            found.append(run.config["versions"])
    return dict(zip(string.ascii_uppercase, found, strict=False))


def notes_of(grid: GridResults, versions: dict[str, dict[str, str]]) -> Iterator[Note]:
    """What speaks against the numbers: what is missing or diverged, and what was not made alike."""
    for state, what in (("to do", "have not begun"), ("begun", "are not finished"), ("cut short", "were cut short")):
        runs = [run for run in grid.runs if run.state == state]
        if runs:
            yield Note(f"{len(runs)} of {len(grid.runs)} cells {what}; rows that need them are empty:", _keys(runs))
    ill = grid.lanes[grid.lanes["diverged"]]
    if len(ill):
        yield Note(
            f"{len(ill)} of {len(grid.lanes)} runs diverged; they count as a score of 0:",
            tuple(dict.fromkeys(ill["cell"])),
        )
    done = [run for run in grid.runs if run.summary]
    overvalued = [run for run in done if run.summary and run.summary["overvalued"]]
    if overvalued:
        yield Note("the critics of some runs claim more than any policy can earn:", _keys(overvalued))
    if len(versions) > 1:
        yield Note(f"the runs were made with {len(versions)} sets of versions:", ())
    for what, kinds in (("code", _by_code(done)), ("data", _by_data(done))):
        for name, values in kinds.items():
            if len(values) > 1:
                yield Note(f"the {what} of {name} is not the same in all its runs: {', '.join(sorted(values))}", ())


def _by_code(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.name, set()).add(run.key.partition("-")[2])
    return found


def _by_data(runs: list[Run]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for run in runs:
        assert run.config and run.summary
        found.setdefault(str(run.config["dataset"].get("folder")), set()).add(run.summary["dataset"])
    return found


def _about(run: Run, versions: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A cell's row in the list of runs."""
    config, summary = run.config or {}, run.summary or {}
    cell = config.get("cell", {})
    row: dict[str, Any] = {"cell": run.key, "state": run.state, "method": run.name, "environment": run.env}
    row |= {label(name): as_word(value) for name, value in run.dials.items()}
    row |= {"seeds": " ".join(map(str, cell.get("seeds", ()))) or run.n}
    row |= {name: " ".join(map(str, summary.get(name, ()))) or "-" for name in ("diverged", "overvalued")}
    row |= {"steps": summary.get("steps", "-"), "data": config.get("dataset", {}).get("digest", "-")}
    row |= {"products": f"{cell['products']} on {cell['device']}" if cell else "-", "commit": config.get("commit", "-")}
    letter = next((letter for letter, v in versions.items() if v == config.get("versions")), "-")
    return row | {"versions": letter}


def _data(grid: GridResults) -> list[tuple[str, str, str]]:
    """Digest, file and hash of every file of every dataset."""
    datasets = [run.config["dataset"] for run in grid.runs if run.config]
    rows = [
        (str(d.get("digest")), name, value)
        for d in datasets
        for name, value in sorted(dict(d.get("sha256", {})).items())
    ]
    return list(dict.fromkeys(rows))


def _settings(run: Run) -> str:
    assert run.config
    return json.dumps({name: run.config[name] for name in ("options", "cell", "dataset")}, indent=1)


def _keys(runs: list[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.key for run in runs))
