"""Claims of many grids with their verdicts, as one csv and one Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.report.check import check_folder
from aihf_control.report.formats import cell_text, escape_markdown, format_csv
from aihf_control.report.load import load_grid
from aihf_control.report.runs import find_grids_and_runs
from aihf_control.report.tables import CLAIMS_CAPTION, Cell, Row, Table, build_claims

HEAD = ("experiment", "claim", "verdict", "P", "value", "value of the other", "gain", "gain in the control", "n")


def write_claims(folders: Sequence[Path], out: Path) -> list[Path]:
    """Check the runs below some folders and write claims.csv and README.md; return their paths.

    Raises BadLines with every number that does not agree with its log, or BadInput if there is no claim; nothing is
    written then.
    """
    for folder in folders:
        check_folder(folder)
    rows = [row for folder in folders for row in find_claims(folder)]
    if not rows:
        raise BadInput(f"no experiment below {' '.join(map(str, folders))} has a table [[claim]]")
    table = Table("claims", "Claims", CLAIMS_CAPTION, rows)
    command = f"python -m aihf_control.report {' '.join(map(str, folders))} --claims {out}"
    write_bytes(out / "claims.csv", format_csv(table).encode())
    write_bytes(out / "README.md", format_page(table, command).encode())
    return [out / "claims.csv", out / "README.md"]


def find_claims(folder: Path) -> Iterator[Row]:
    """Yield a row for each claim of each grid below a folder, with the experiment and the folder of its results."""
    for path in find_grids_and_runs(folder)[0]:
        grid = load_grid(path)
        for row in build_claims(grid.with_results()).rows:
            about: dict[str, Cell] = {"experiment": grid.name}
            yield Row({**about, **row.cells, "results": str(path)}, row.runs)


def format_page(table: Table, command: str) -> str:
    """Format the claims as Markdown."""
    lines = ["# Claims", "", table.caption, "", f"Made by `{command}`; claims.csv has more columns.", ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in table.rows:
        lines.append(f"| {' | '.join(escape_markdown(_text(row, name)) for name in HEAD)} |")
    return "\n".join([*lines, ""])


def _text(row: Row, name: str) -> str:
    if name != "claim":
        return cell_text(row, name)
    cells = row.cells
    where = f", {cells['where']}" if cells["where"] else ""
    than = {"better": "better than", "as good": "as good as", "not worse": "not worse than"}[str(cells["kind"])]
    return f"{cells['claim']} ({cells['paper']}; {cells['better']} {than} {cells['than']}{where})"
