"""Tables as text, Markdown, LaTeX and csv. Names of methods and environments are data, so they are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from aihf_control.core.statistics import Estimate, format_count
from aihf_control.report.tables import Row, Table

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates a cell that begins with one of these
MARKDOWN = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " "})
LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"})
LATEX |= str.maketrans({"~": r"\textasciitilde ", "^": r"\textasciicircum ", "\\": r"\textbackslash "})


def cell_text(row: Row, name: str) -> str:
    """Format a cell for reading."""
    x = row.cells.get(name)
    if x is None:
        return "-"
    if name == "n":
        return format_count(int(x))  # type: ignore[arg-type]
    if isinstance(x, float):
        return f"{x:.2f}" if abs(x) < 10 else f"{x:.0f}"
    return f"{x:,}" if isinstance(x, int) else str(x)


def format_markdown(table: Table) -> str:
    """Format a table, its title and its caption as Markdown."""
    head = [*table.columns, "runs"]
    lines = [f"## {table.title}", "", _markdown_line(head), "|---" * len(head) + "|"]
    for row in table.rows:
        lines.append(_markdown_line([*(cell_text(row, name) for name in table.columns), " ".join(row.runs)]))
    return "\n".join([*lines, "", table.caption, ""])


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def escape_markdown(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return text.translate(MARKDOWN)


def format_latex(table: Table) -> str:
    """Format a table for booktabs; the runs of each row follow as a comment."""
    shown = pd.DataFrame([{name: cell_text(row, name) for name in table.columns} for row in table.rows])
    caption = escape_latex(table.caption)
    text = shown.to_latex(index=False, escape=True, caption=caption, label=f"tab:{table.name}", position="t")
    return text + "".join(f"% row {i}: runs {' '.join(row.runs)}\n" for i, row in enumerate(table.rows, 1))


def escape_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return text.translate(LATEX)


# ----------------------------------------------------------------------------------------------------------------- csv


def format_csv(table: Table) -> str:
    """Format a table as csv with numbers in full; an estimate takes three columns."""
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        cells = [row.cells.get(name) for row in table.rows]
        columns[name] = [x.value if isinstance(x, Estimate) else x for x in cells]
        if any(isinstance(x, Estimate) for x in cells):
            for end in ("low", "high"):
                columns[f"{name} {end}"] = [getattr(x, end, None) for x in cells]
    columns["runs"] = [" ".join(row.runs) for row in table.rows]
    return frame_csv(pd.DataFrame(columns, dtype=object))


def frame_csv(frame: pd.DataFrame) -> str:
    """Format a frame as csv. Words that a spreadsheet would evaluate get an apostrophe in front."""
    words = [name for name in frame if frame[name].dtype.kind not in "iufb"]
    safe = frame.astype(dict.fromkeys(words, object)).copy()
    for name in words:
        safe[name] = pd.Series([escape_csv(x) for x in frame[name]], frame.index, dtype=object)
    return safe.rename(columns=escape_csv).to_csv(index=False, lineterminator="\n")


def escape_csv(x: Any) -> Any:
    """Put an apostrophe in front of a word that a spreadsheet would evaluate as a formula."""
    return f"'{x}" if isinstance(x, str) and x.startswith(FORMULA) else x
