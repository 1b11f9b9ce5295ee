"""Helpers for drawing figures: a style per method, panels, intervals, PNG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from aihf_control.core.config import as_word
from aihf_control.core.statistics import Estimate
from aihf_control.report.grid_results import FINISHED, GridResults, Setting
from aihf_control.report.tables import label

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#bbbbbb")
MARKERS = "osD^vP*X<>"
INTERVALS = "IQM and 95 % bootstrap interval over seeds"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure with its title, its caption, and the keys of the runs that it shows."""

    title: str
    caption: str
    fig: Figure
    runs: Iterable[str]


def plain_text() -> Any:
    """Return a context in which matplotlib draws text with `$` as it is, not as a formula."""
    return matplotlib.rc_context({"text.parse_math": False})


def png_of(fig: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG. The same figure gives the same bytes."""
    out = io.BytesIO()
    fig.savefig(out, dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()


def setting_text(setting: Setting) -> str:
    """Format a setting for the end of a title, beginning with a comma."""
    return "".join(f", {label(name)} {as_word(value)}" for name, value in setting.items())


def legend_text(name: str) -> str:
    """Return a name that a legend shows; matplotlib leaves out names that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def style_of(grid: GridResults, method: str) -> dict[str, str]:
    """Return a method's colour and marker, the same in every figure."""
    i = grid.methods.index(method)
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}


def make_panels(n: int, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Any]]:
    """Create a figure with `n` panels; return it and their axes."""
    columns = min(n, 4 if n > 6 else 3)
    rows = -(-n // columns)
    fig = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return fig, list(axes[:n])


def draw_point(ax: Any, x: float, y: float, found: Estimate, along: str, color: str, marker: str) -> None:
    """Draw an estimate with its interval along one axis."""
    ends = [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]
    ax.errorbar([x], [y], **{f"{along}err": ends}, color=color, marker=marker, ms=5, capsize=2, lw=1.5)


def draw_band(ax: Any, found: dict[float, Estimate], name: str | None, color: str, marker: str) -> None:
    """Draw estimates as a line with a band; a single one as a point with an interval."""
    ax.plot(list(found), [e.value for e in found.values()], label=name, lw=1.5, ms=3, color=color, marker=marker)
    ax.fill_between(
        list(found), [e.low for e in found.values()], [e.high for e in found.values()], alpha=0.15, color=color, lw=0
    )
    if len(found) == 1:
        ((x, e),) = found.items()
        draw_point(ax, x, e.value, e, "y", color, marker)


def finish_axes(ax: Any, title: str, x: str, y: str) -> None:
    """Set title, axis labels and grid, and a legend if anything has a name."""
    ax.set(xlabel=x, ylabel=y)
    ax.set_title(title, fontsize=9)
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7)


def finished_keys(grid: GridResults, shown: Iterable[tuple[str, Setting]]) -> list[str]:
    """Return the keys of the finished runs of some environments and settings."""
    wanted = {(env, grid.values_of(setting)) for env, setting in shown}
    return [r.key for r in grid.runs if r.state == FINISHED and (r.env, grid.values_of(r.swept)) in wanted]
