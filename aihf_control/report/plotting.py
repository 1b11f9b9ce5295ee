"""What the figures of a grid are drawn with: a style for each method, panels, intervals, and the PNG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from aihf_control.core.config import as_word
from aihf_control.core.statistics import Estimate
from aihf_control.report.load import GridResults
from aihf_control.report.tables import label

Setting = dict[str, Any]
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#bbbbbb")
MARKERS = "osD^vP*X<>"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure, and the keys of the runs that it shows."""

    name: str
    title: str
    caption: str
    png: bytes
    runs: tuple[str, ...]


def picture(name: str, title: str, caption: str, fig: Figure, runs: Iterable[str]) -> Picture:
    """A drawn figure as PNG. The same figure gives the same bytes."""
    out = io.BytesIO()
    fig.savefig(out, dpi=110, bbox_inches="tight", metadata={"Software": None})
    return Picture(name, title, caption, out.getvalue(), tuple(dict.fromkeys(runs)))


def setting_text(setting: Setting) -> str:
    """A setting behind a name."""
    return "".join(f", {label(name)} {as_word(value)}" for name, value in setting.items())


def style_of(grid: GridResults, method: str) -> dict[str, str]:
    """A method's colour and marker, the same in every figure."""
    i = grid.methods.index(method)
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i // len(COLOURS) % len(MARKERS)]}


def panels_of(n: int, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Any]]:
    """A figure with `n` panels."""
    columns = min(n, 4 if n > 6 else 3)
    rows = -(-n // columns)
    fig = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return fig, list(axes[:n])


def point(ax: Any, x: float, y: float, found: Estimate, along: str, color: str, marker: str) -> None:
    """An estimate with its interval along one axis."""
    ends = [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]
    ax.errorbar([x], [y], **{f"{along}err": ends}, color=color, marker=marker, ms=5, capsize=2, lw=1.5)


def band(ax: Any, found: dict[float, Estimate], name: str | None, color: str, marker: str) -> None:
    """Estimates as a line with a band; a single one as a point with an interval."""
    ax.plot(list(found), [e.value for e in found.values()], label=name, lw=1.5, ms=3, color=color, marker=marker)
    ax.fill_between(
        list(found), [e.low for e in found.values()], [e.high for e in found.values()], alpha=0.15, color=color, lw=0
    )
    if len(found) == 1:
        ((x, e),) = found.items()
        point(ax, x, e.value, e, "y", color, marker)


def finish(ax: Any, title: str, x: str, y: str) -> None:
    ax.set(xlabel=x, ylabel=y)
    ax.set_title(title, fontsize=9)
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7)
