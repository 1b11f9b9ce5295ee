"""Report of a grid: csv, Markdown, LaTeX, figures, and one HTML page that needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from aihf_control.core.config import as_word
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import Estimate
from aihf_control.report.claims import judge, sentence_of
from aihf_control.report.conclusion import RULE, conclude
from aihf_control.report.figures import Picture, draw_figures
from aihf_control.report.films import find_films
from aihf_control.report.formats import cell_text, format_csv, format_latex, format_markdown, frame_csv
from aihf_control.report.grid_results import EXCLUDED, FINISHED, TO_DO, GridResults, Run
from aihf_control.report.load import load_grid
from aihf_control.report.notes import Versions, find_notes, find_versions
from aihf_control.report.tables import Row, Table, build_tables, label
from aihf_control.report.terms import explain

LEFT_ALIGNED = {"method", "environment", "missing", "commit", "command", "results"}  # columns of words
LEFT_ALIGNED |= {"claim", "paper", "better", "than", "kind", "where", "measure", "verdict"}


class Written(NamedTuple):
    """A report that was written: its page, the runs that were excluded, and a line per claim with its verdict."""

    page: Path
    excluded: list[Run]
    claims: list[str]


def write_report(folder: Path) -> Written:
    """Write a grid's report into its folder's `report`.

    The same runs give the same bytes. In csv files, words that a spreadsheet would evaluate (a leading = + - @) get an
    apostrophe in front. Environments, settings and methods without a finished run are left out. Raises BadInput if
    grid.json is damaged or no run could be loaded.
    """
    grid, out = load_grid(folder), folder / "report"
    shown = grid.with_results()
    tables, figures = build_tables(shown), draw_figures(shown)
    for name, text in format_files(shown, tables).items():
        write_bytes(out / name, text.encode())
    for figure in figures:
        for end, data in figure.files.items():
            write_bytes(out / f"{figure.name}.{end}", data)
    write_bytes(out / "page.html", render_page(grid, tables, figures).encode())
    excluded = [run for run in grid.runs if run.state == EXCLUDED]
    return Written(out / "page.html", excluded, [sentence_of(judge(grid, claim)) for claim in grid.claims])


def format_files(grid: GridResults, tables: list[Table]) -> dict[str, str]:
    """Return the csv, Markdown and LaTeX files of a grid by name."""
    files = {"runs.csv": frame_csv(grid.lanes), "evaluations.csv": frame_csv(grid.evaluations)}
    for table in tables:
        files[f"{table.name}.csv"] = format_csv(table)
        files[f"{table.name}.md"], files[f"{table.name}.tex"] = format_markdown(table), format_latex(table)
    return files


def render_page(grid: GridResults, tables: list[Table], figures: list[Picture]) -> str:
    """Render the HTML page."""
    versions = find_versions(grid)
    runs = [_run_row(run, versions) for run in grid.runs if run.state != TO_DO]
    shown = [dataclasses.replace(table, rows=[row for row in table.rows if has_result(row)]) for table in tables]
    return template("page.html").render(
        grid=grid,
        n_finished=sum(run.state == FINISHED for run in grid.runs),
        sentences=conclude(grid.with_results()),
        rule=RULE,
        tables=[(table, len(whole.rows) - len(table.rows)) for table, whole in zip(shown, tables, strict=True)],
        figures=[(f, _data_of(f.files["svg"]), _data_of(f.files["narrow.svg"])) for f in figures],
        films=find_films(grid),
        notes=list(find_notes(grid, versions)),
        runs=runs,
        run_columns=list(runs[0]),
        settings=_settings,
        versions=versions,
        version_names=list(dict.fromkeys(name for numbers in versions.values() for name in numbers)),
        data=_data_rows(grid),
    )


def template(name: str) -> jinja2.Template:
    """Return a template of a page, with what its tables need."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals |= {
        "cell_text": cell_text,
        "explain": explain,
        "left_aligned": LEFT_ALIGNED,
        "sort_value": sort_value,
    }
    return environment.get_template(name)


def has_result(row: Row) -> bool:
    """Return whether a row has the number that it is about, or a verdict."""
    return "missing" not in row.cells or "verdict" in row.cells


def sort_value(row: Row, name: str) -> str | int | float:
    """Return the value by which a row is sorted: the number of an estimate, or the text."""
    x = row.cells.get(name)
    return x.value if isinstance(x, Estimate) else "" if x is None else x


def _data_of(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


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
