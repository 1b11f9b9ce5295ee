"""Helpers for drawing figures: panels, intervals, reference lines, one legend, and files in three formats."""

from __future__ import annotations

import dataclasses
import io
import math
import textwrap
from collections.abc import Iterable
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FixedLocator

from aihf_control.core.config import as_word
from aihf_control.core.statistics import Estimate
from aihf_control.report.clone import CLONE
from aihf_control.report.grid_results import FINISHED, GridResults, Setting
from aihf_control.report.styles import MAIN, Style, style_of
from aihf_control.report.tables import label

INTERVALS = "IQM and 95 % bootstrap interval over seeds"
UNDATED = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
REFERENCES = EXPERT_LINE, CLONE_LINE = "expert", "clone (bc)"
LEGEND_LINE = 0.2  # inches
TEXT_LINE = 0.16  # inches, of titles and of names of rows
LETTER = 0.075  # inches, mean width of a letter


@dataclasses.dataclass(frozen=True)
class Layout:
    """Arrangement of a figure's panels; sizes in inches."""

    widths: tuple[float, ...]
    """Width of a figure by its number of columns, at most as many as there are entries."""
    height: float
    """Height of a panel, unless the drawing has its own."""


WIDE = Layout((5.6, 7.4, 8.8), 2.6)  # as wide as the text of a README
NARROW = Layout((3.7,), 2.6)  # for a phone: panels below each other


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure with its title, its caption, and the keys of the runs that it shows."""

    title: str
    caption: str
    fig: Figure
    runs: Iterable[str]
    height: float | None = None
    """Height of its panels in inches, if they have their own."""


def plain_text() -> Any:
    """Return a context in which text with `$` is drawn as it is, and the same figure gives the same bytes."""
    return matplotlib.rc_context(
        {"text.parse_math": False, "svg.hashsalt": "aihf_control", "font.size": 9, "axes.titlesize": 9}
    )


def png_of(fig: Figure, dpi: int = 110) -> bytes:
    """Return a figure, cropped to what is drawn, as PNG. The same figure gives the same bytes."""
    return bytes_of(fig, "png", dpi, bbox_inches="tight")


def bytes_of(fig: Figure, kind: Literal["png", "svg", "pdf"], dpi: int = 160, **options: Any) -> bytes:
    """Return a figure as a file of a format. The same figure gives the same bytes."""
    out = io.BytesIO()
    fig.savefig(out, format=kind, dpi=dpi, metadata=UNDATED[kind], **options)
    return out.getvalue()


def setting_text(setting: Setting) -> str:
    """Format a setting for the end of a title, beginning with a comma."""
    return "".join(f", {label(name)} {as_word(value)}" for name, value in setting.items())


def legend_text(name: str) -> str:
    """Return a name that a legend shows; matplotlib leaves out names that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


# -------------------------------------------------------------------------------------------------------------- panels


def make_panels(n: int) -> tuple[Figure, list[Any]]:
    """Create a figure with `n` panels, which `arrange` places; return it and their axes."""
    fig = Figure()
    return fig, list(fig.subplots(1, n, squeeze=False).ravel())


def arrange(fig: Figure, layout: Layout, height: float | None = None) -> None:
    """Place a figure's panels in the columns of a layout, and one legend of all its named lines below them."""
    axes = fig.axes
    columns = min(len(axes), len(layout.widths))
    rows = math.ceil(len(axes) / columns)
    places = GridSpec(rows, columns, figure=fig)
    for i, ax in enumerate(axes):
        ax.set_subplotspec(places[i])
    width = layout.widths[columns - 1]
    lines = max(_wrap_texts(ax, width / columns) for ax in axes)
    below = _draw_legend(fig, width)
    panel = (height or layout.height + (0.7 if len(axes) == 1 else 0)) + lines * TEXT_LINE
    fig.set_size_inches(width, rows * panel + below)
    fig.set_layout_engine("constrained")
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # every file has this layout, which is not computed again


def _wrap_texts(ax: Any, width: float) -> int:
    """Break title and names of rows for a panel of `width` inches, anew at each call; return the lines to add."""
    title = _wrap(ax.get_title(), width - 0.9)
    ax.set_title(title)
    if not isinstance(ax.yaxis.get_major_locator(), FixedLocator):  # numbers
        return title.count("\n")
    wrapped = [_wrap(name.get_text(), width / 2) for name in ax.get_yticklabels()]
    ax.set_yticks(ax.get_yticks(), wrapped)
    return title.count("\n") + sum(name.count("\n") for name in wrapped)


def _wrap(text: str, width: float) -> str:
    return "\n".join(textwrap.wrap(text, max(8, int(width / LETTER)), break_long_words=False))


def _draw_legend(fig: Figure, width: float) -> float:
    """Draw one legend of what the panels name below them, replacing an earlier one; return its height in inches."""
    for old in list(fig.legends):
        old.remove()
    named: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if not named:
        return 0.0
    named = {name: named[name] for name in sorted(named, key=lambda name: name in REFERENCES)}  # methods first
    columns = max(1, min(len(named), int(width / (0.55 + LETTER * max(map(len, named))))))
    fig.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2
    )
    return LEGEND_LINE * math.ceil(len(named) / columns)


# --------------------------------------------------------------------------------------------------------------- marks


def line_of(style: Style) -> dict[str, Any]:
    """Return a style as arguments of `Axes.plot`."""
    dashed = (0, style.dashes) if style.dashes else "-"
    return {"color": style.color, "marker": style.marker, "linestyle": dashed, "lw": 1.6, "ms": 4}


def draw_point(ax: Any, x: float, y: float, found: Estimate, along: str, style: Style, name: str | None = None) -> None:
    """Draw an estimate with its interval along one axis."""
    ends = [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]
    kept = {"color": style.color, "marker": style.marker, "ls": "none", "label": name}
    ax.errorbar([x], [y], **{f"{along}err": ends}, **kept, ms=5, capsize=2, lw=1.5)


def draw_band(ax: Any, found: dict[float, Estimate], method: str) -> None:
    """Draw estimates as a line with a band."""
    style, at = style_of(method), list(found)
    top = 3 if method in MAIN else 2.5  # of lines that overlap
    ax.plot(at, [e.value for e in found.values()], label=legend_text(method), zorder=top, **line_of(style))
    low, high = [e.low for e in found.values()], [e.high for e in found.values()]
    ax.fill_between(at, low, high, alpha=0.13, color=style.color, lw=0)


def draw_marks(ax: Any, at: dict[str, tuple[float, Estimate]]) -> None:
    """Draw a mark with its interval for each method at its place; marks at one place are moved apart to be seen."""
    left, right = ax.get_xlim()
    for x in {x for x, _ in at.values()}:
        here = [(method, e) for method, (place, e) in at.items() if place == x]
        for i, (method, found) in enumerate(here):
            shift = (i - (len(here) - 1) / 2) * 0.022 * (right - left)
            draw_point(ax, x + shift, found.value, found, "y", style_of(method), legend_text(method))


def draw_references(ax: Any, clone: float | None, across: bool = True, at: float | None = 1.0) -> None:
    """Draw a line at the expert's score or return and one at the clone's, where known, across the axes or upright."""
    draw = ax.axhline if across else ax.axvline
    if at is not None:
        draw(at, color="black", ls="--", lw=1, label=EXPERT_LINE, zorder=1.5)
    if clone is not None:
        draw(clone, color=style_of(CLONE).color, ls=":", lw=1.2, label=CLONE_LINE, zorder=1.5)


def finish_axes(ax: Any, title: str, x: str, y: str) -> None:
    """Set title, axis labels and grid."""
    ax.set(xlabel=x, ylabel=y)
    ax.set_title(title)
    ax.grid(alpha=0.3)


def finished_keys(grid: GridResults, shown: Iterable[tuple[str, Setting]]) -> list[str]:
    """Return the keys of the finished runs of some environments and settings."""
    wanted = {(env, grid.values_of(setting)) for env, setting in shown}
    return [r.key for r in grid.runs if r.state == FINISHED and (r.env, grid.values_of(r.swept)) in wanted]
