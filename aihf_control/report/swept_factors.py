"""Figures of the score over swept factors."""

from __future__ import annotations

import itertools

import numpy as np

from aihf_control.core.config import as_word
from aihf_control.core.statistics import aggregate, iqm_of_all
from aihf_control.report.clone import CLONE, clone_score
from aihf_control.report.grid_results import GridResults, rng
from aihf_control.report.plotting import (
    INTERVALS,
    Drawing,
    draw_point,
    draw_references,
    finish_axes,
    finished_keys,
    legend_text,
    line_of,
    make_panels,
)
from aihf_control.report.styles import style_of
from aihf_control.report.tables import label


def draw_swept(grid: GridResults) -> Drawing | None:
    """Draw score over the swept factors: a line per method for one, a heat map per method for two, else nothing."""
    if not 1 <= len(grid.swept) <= 2 or not any(
        grid.scores(method, setting) is not None for method in grid.methods for setting in grid.settings
    ):
        return None
    return _draw_lines(grid, grid.swept[0]) if len(grid.swept) == 1 else _draw_heat(grid, *grid.swept)


def _draw_lines(grid: GridResults, factor: str) -> Drawing:
    values = [setting[factor] for setting in grid.settings]
    fig, (ax,) = make_panels(1)
    for i, method in enumerate(grid.methods):
        scored = [(at, grid.scores(method, {factor: value})) for at, value in enumerate(values)]
        shift = 0.04 * (i - (len(grid.methods) - 1) / 2)  # so that no interval hides another
        found = {at + shift: aggregate(x, iqm_of_all, rng()) for at, x in scored if x is not None}
        if found:
            style = style_of(method)
            ax.plot(list(found), [e.value for e in found.values()], label=legend_text(method), **line_of(style))
        for x, e in found.items():
            draw_point(ax, x, e.value, e, "y", style_of(method))
    clones = {x for setting in grid.settings if (x := clone_score(grid, setting)) is not None}
    draw_references(ax, clones.pop() if len(clones) == 1 and CLONE not in grid.methods else None)
    ax.set_xticks(range(len(values)), [str(as_word(value)) for value in values])
    finish_axes(ax, "", label(factor), "score")
    title = f"Score over {label(factor)}"
    runs = finished_keys(grid, itertools.product(grid.envs, grid.settings))
    return Drawing(title, f"{title}, {INTERVALS}, environments together.", fig, runs)


def _draw_heat(grid: GridResults, down: str, across: str) -> Drawing:
    rows, columns = (list(dict.fromkeys(setting[name] for setting in grid.settings)) for name in (down, across))
    found = {
        method: [[grid.scores(method, {down: y, across: x}) for x in columns] for y in rows] for method in grid.methods
    }
    shown = [method for method, cells in found.items() if any(x is not None for row in cells for x in row)]
    fig, axes = make_panels(len(shown))
    for ax, method in zip(axes, shown, strict=True):
        value = np.array([[np.nan if x is None else iqm_of_all(x) for x in row] for row in found[method]])
        ax.imshow(value, vmin=0, vmax=1.1, cmap="viridis", aspect="auto")
        for (i, j), x in np.ndenumerate(value):
            if np.isfinite(x):
                ax.text(j, i, f"{x:.2f}", ha="center", va="center", color="white" if x < 0.6 else "black")
        ax.set_xticks(range(len(columns)), [str(as_word(x)) for x in columns])
        ax.set_yticks(range(len(rows)), [str(as_word(y)) for y in rows])
        ax.set(title=method, xlabel=label(across), ylabel=label(down))
    title = f"Score by {label(down)} and {label(across)}"
    caption = f"{title}: IQM over seeds and environments; the table of scores has the intervals."
    runs = finished_keys(grid, itertools.product(grid.envs, grid.settings))
    return Drawing(title, caption, fig, runs, height=1.0 + 0.4 * len(rows))
