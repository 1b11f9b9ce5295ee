"""Figures of a grid, each with a caption and the runs that it shows.

To add a figure, write a function that returns a `Drawing` and add a line to FIGURES.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter
from scipy import stats

from aihf_control.core.config import check_known
from aihf_control.core.statistics import Estimate, aggregate, estimate, iqm_of_all, profile, profile_band
from aihf_control.report.clone import clone_score
from aihf_control.report.grid_results import GridResults, Setting, finite, numbers, rng
from aihf_control.report.plotting import (
    INTERVALS,
    NARROW,
    WIDE,
    Drawing,
    arrange,
    bytes_of,
    draw_band,
    draw_marks,
    draw_point,
    draw_references,
    finish_axes,
    finished_keys,
    legend_text,
    line_of,
    make_panels,
    plain_text,
    setting_text,
)
from aihf_control.report.styles import style_of
from aihf_control.report.swept_factors import draw_swept

Array = np.ndarray
PANELS = 24  # a figure with more is too large to read
ROWS = 500  # an image with more is too tall for its format


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as files, and the keys of the runs that it shows."""

    name: str
    title: str
    caption: str
    files: dict[str, bytes]
    """By the end of their names: png, svg, pdf, and narrow.svg with the panels below each other, for phones."""
    runs: tuple[str, ...]


def draw_figures(grid: GridResults) -> list[Picture]:
    """Draw the figures that the experiment asks for; those with nothing to show are left out.

    Raises BadInput for other names.
    """
    names = list(FIGURES) if grid.report.figures is None else grid.report.figures
    check_known(names, list(FIGURES), f"{grid.name}, report.figures")
    with plain_text():
        drawn = {name: FIGURES[name](grid) for name in names}
        return [_make_picture(name, d) for name, d in drawn.items() if d is not None]


def _make_picture(name: str, drawing: Drawing) -> Picture:
    arrange(drawing.fig, WIDE, drawing.height)
    files = {kind: bytes_of(drawing.fig, kind) for kind in ("png", "svg", "pdf")}
    arrange(drawing.fig, NARROW, drawing.height)
    files["narrow.svg"] = bytes_of(drawing.fig, "svg")
    return Picture(name, drawing.title, drawing.caption, files, tuple(dict.fromkeys(drawing.runs)))


def draw_scores(grid: GridResults) -> Drawing | None:
    """Draw every method's score with its interval, all environments together, the best first within each setting."""
    found = [
        (method, setting, aggregate(x, iqm_of_all, rng()))
        for setting in grid.settings
        for method in sorted(grid.methods, key=lambda m: -_iqm(grid, m, setting))
        if (x := grid.scores(method, setting)) is not None
    ]
    rows = found[:ROWS]
    fig, (ax,) = make_panels(1)
    for y, (method, _, score) in enumerate(rows):
        draw_point(ax, score.value, y, score, "x", style_of(method))
    ax.set_yticks(range(len(rows)), [f"{method}{setting_text(setting)}" for method, setting, _ in rows])
    ax.invert_yaxis()
    draw_references(ax, clone_score(grid, grid.settings[0]) if len(grid.settings) == 1 else None, across=False)
    finish_axes(ax, "", "score (0 random, 1 expert)", "")
    caption = f"Score of each run's last policy, {INTERVALS}, environments together; a run that diverged counts as 0."
    runs = [run.key for method, setting, _ in rows for run in grid.select(method, setting)]
    caption += _only_first(len(rows), len(found), "rows")
    return Drawing("Scores with intervals", caption, fig, runs, height=0.6 + 0.26 * len(rows)) if rows else None


def _iqm(grid: GridResults, method: str, setting: Setting) -> float:
    x = grid.scores(method, setting)
    return -np.inf if x is None else float(iqm_of_all(x))


def draw_curves(grid: GridResults) -> Drawing | None:
    """Draw score over environment steps, a panel per environment and setting with a finished run.

    Returns None if no method takes environment steps.
    """
    places = list(itertools.product(grid.envs, grid.settings))
    found = [
        (env, setting)
        for env, setting in places
        if any(_evaluations(grid, env, m, setting) is not None for m in grid.methods)
    ]
    shown = found[:PANELS]
    if not shown or not numbers(grid.evaluations, "env_steps").any():
        return None
    fig, axes = make_panels(len(shown))
    for ax, (env, setting) in zip(axes, shown, strict=True):
        frames = {m: x for m in grid.methods if (x := _evaluations(grid, env, m, setting)) is not None}
        _draw_lines_and_marks(ax, {method: _scores_by_steps(frame) for method, frame in frames.items()})
        draw_references(ax, clone_score(grid, setting, env))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        finish_axes(ax, f"{env}{setting_text(setting)}", "environment steps", "score")
    caption = (
        f"Score at each evaluation, {INTERVALS}; runs that diverged are left out from there on. A method that takes no "
        "environment steps is a mark at 0."
    )
    caption += _only_first(len(shown), len(found), "panels")
    return Drawing("Learning curves over environment steps", caption, fig, finished_keys(grid, shown))


def _scores_by_steps(frame: pd.DataFrame) -> dict[float, Estimate]:
    """Estimate the score by number of environment steps; of several evaluations after as many steps the last."""
    by_step = [(float(numbers(rows, "env_steps").max()), finite(rows, "score")) for _, rows in frame.groupby("step")]
    return {at: estimate(x, resamples=1000) for at, x in by_step if len(x)}


def _draw_lines_and_marks(ax: Any, found: dict[str, dict[float, Estimate]]) -> None:
    """Draw a line with a band for each method with several estimates, and a mark for each with one."""
    for method in (m for m, by in found.items() if len(by) > 1):
        draw_band(ax, found[method], method)
    single = {method: next(iter(by.items())) for method, by in found.items() if len(by) == 1}
    for x, _ in single.values():
        ax.update_datalim([(x, np.nan)], updatey=False)
    ax.autoscale_view()
    draw_marks(ax, single)


def draw_labels(grid: GridResults) -> Drawing | None:
    """Draw score over the number of labels that a run received, a panel per environment.

    Returns None if all runs with labels received as many.
    """
    if len(set(numbers(grid.evaluations, "labels")) - {0.0}) < 2:
        return None
    envs = grid.envs[:PANELS]
    fig, axes = make_panels(len(envs))
    for ax, env in zip(axes, envs, strict=True):
        for setting in grid.settings:
            frames = {m: x for m in grid.methods if (x := _evaluations(grid, env, m, setting)) is not None}
            asking = {m: x for m, x in frames.items() if numbers(x, "labels").any()}
            _draw_lines_and_marks(ax, {method: _scores_by_labels(frame) for method, frame in asking.items()})
        draw_references(ax, clone_score(grid, grid.settings[0], env) if len(grid.settings) == 1 else None)
        finish_axes(ax, env, "labels", "score")
    over = "of the last policy or, where a method asks as it goes, of every evaluation"
    caption = f"Score {over} over the comparisons that a seed was given, {INTERVALS}."
    caption += _only_first(len(envs), len(grid.envs), "panels")
    shown = finished_keys(grid, itertools.product(envs, grid.settings))
    return Drawing("Score over labels", caption, fig, shown)


def _scores_by_labels(frame: pd.DataFrame) -> dict[float, Estimate]:
    """Estimate the score by number of labels: of each evaluation, or of the last if the number never changes."""
    asked = frame.loc[frame["labels"] > 0]
    if len(set(asked["labels"])) == 1:
        asked = asked.groupby("seed").tail(1)
    by = {float(n): finite(rows, "score") for n, rows in asked.groupby("labels")}  # type: ignore[arg-type]
    return {n: estimate(x, resamples=1000) for n, x in by.items() if len(x)}


def draw_profiles(grid: GridResults) -> Drawing | None:
    """Draw the share of runs above each score, a panel per setting in which a method has finished."""
    found = [s for s in grid.settings if any(grid.scores(m, s) is not None for m in grid.methods)]
    shown = found[:PANELS]
    if not shown:
        return None
    taus = np.linspace(0, max(1.2, *1.02 * finite(grid.lanes, "score"), 1.2), 121)
    fig, axes = make_panels(len(shown))
    for ax, setting in zip(axes, shown, strict=True):
        for method in grid.methods:
            if (x := grid.scores(method, setting)) is not None:
                low, high = profile_band(x, taus, rng())
                style = line_of(style_of(method))
                ax.plot(taus, profile(x, taus), label=legend_text(method), markevery=20, **style)
                ax.fill_between(taus, low, high, alpha=0.1, color=style["color"], lw=0)
        draw_references(ax, None, across=False)
        title = setting_text(setting).removeprefix(", ") or "all environments"
        finish_axes(ax, title, "score", "share of runs above it")
    caption = (
        "The share of runs, over all environments, whose last policy scores above each value, 95 % bootstrap bands."
    )
    caption += _only_first(len(shown), len(found), "panels")
    runs = finished_keys(grid, itertools.product(grid.envs, shown))
    return Drawing("Performance profiles", caption, fig, runs)


def draw_reward(grid: GridResults) -> Drawing | None:
    """Draw the score of each policy over the accuracy of its learned reward on held-out comparisons."""
    if "pair_accuracy" not in grid.lanes or not len(frame := grid.lanes.dropna(subset=["pair_accuracy", "score"])):
        return None
    fig, (ax,) = make_panels(1)
    for method in [m for m in grid.methods if m in set(frame["method"])]:
        own, style = frame.loc[frame["method"] == method], style_of(method)
        marks = {"color": style.color, "marker": style.marker, "label": legend_text(method)}
        ax.scatter(own["pair_accuracy"], own["score"], s=26, alpha=0.85, linewidths=0, **marks)  # type: ignore[arg-type]
    draw_references(ax, None)
    finish_axes(ax, "", "accuracy on held-out comparisons", "score")
    caption = "A point a run: the learned reward's accuracy on held-out comparisons, and the score of its policy."
    accuracy, score = numbers(frame, "pair_accuracy"), numbers(frame, "score")
    if np.ptp(accuracy) and np.ptp(score):
        rank = stats.spearmanr(accuracy, score).statistic  # pyright: ignore[reportAttributeAccessIssue]
        caption += f" Spearman's rank correlation over these {len(frame)} runs: {rank:.2f}."
    return Drawing("Reward accuracy against score", caption, fig, frame["cell"])


FIGURES = {
    "scores": draw_scores,
    "curves": draw_curves,
    "labels": draw_labels,
    "profiles": draw_profiles,
    "dials": draw_swept,  # its name in files
    "reward": draw_reward,
}


# ------------------------------------------------------------------------------------------------------------- helpers


def _evaluations(grid: GridResults, env: str, method: str, setting: Setting) -> pd.DataFrame | None:
    runs = grid.select(method, setting, env)
    return grid.evaluations_of(runs[0]) if runs else None


def _only_first(shown: int, found: int, what: str) -> str:
    return f" Only the first {shown} of {found} {what} are drawn." if shown < found else ""
