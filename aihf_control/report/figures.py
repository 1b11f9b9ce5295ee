"""Figures of a grid, each with a caption and the runs that it shows.

To add a figure, write a function that returns a `Drawing` and add a line to FIGURES.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from aihf_control.core.config import check_known
from aihf_control.core.statistics import Estimate, aggregate, estimate, iqm_of_all, profile, profile_band
from aihf_control.report.grid_results import GridResults, Setting, finite, numbers
from aihf_control.report.plotting import (
    INTERVALS,
    Drawing,
    draw_band,
    draw_point,
    finish_axes,
    finished_keys,
    legend_text,
    make_panels,
    plain_text,
    png_of,
    setting_text,
    style_of,
)
from aihf_control.report.swept_factors import draw_swept
from aihf_control.report.tables import rng

Array = np.ndarray
PANELS = 24  # a figure with more is too large to read
ROWS = 500  # an image with more is too tall for its format


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as PNG, and the keys of the runs that it shows."""

    name: str
    title: str
    caption: str
    png: bytes
    runs: tuple[str, ...]


def draw_figures(grid: GridResults) -> list[Picture]:
    """Draw the figures that the experiment asks for; those with nothing to show are left out.

    Raises BadInput for other names.
    """
    names = list(FIGURES) if grid.report.figures is None else grid.report.figures
    check_known(names, list(FIGURES), f"{grid.name}, report.figures")
    with plain_text():
        drawn = {name: FIGURES[name](grid) for name in names}
        return [
            Picture(name, d.title, d.caption, png_of(d.fig), tuple(dict.fromkeys(d.runs)))
            for name, d in drawn.items()
            if d is not None
        ]


def draw_scores(grid: GridResults) -> Drawing | None:
    """Draw every method's score with its interval, all environments together."""
    found = [(m, s, x) for s in grid.settings for m in grid.methods if (x := grid.scores(m, s)) is not None]
    rows = found[:ROWS]
    fig = Figure(figsize=(7, 1 + 0.28 * len(rows)))
    ax = fig.subplots()
    for y, (method, _, x) in enumerate(rows):
        score = aggregate(x, iqm_of_all, rng())
        draw_point(ax, score.value, y, score, "x", **style_of(grid, method))
    ax.set_yticks(range(len(rows)), [f"{method}{setting_text(setting)}" for method, setting, _ in rows])
    ax.invert_yaxis()
    ax.axvline(1, color="black", ls="--", lw=1)
    finish_axes(ax, "", "score (0 random, 1 expert)", "")
    caption = f"Score of each run's last policy, {INTERVALS}, environments together; a run that diverged counts as 0."
    runs = [run.key for method, setting, _ in rows for run in grid.select(method, setting)]
    return Drawing("Scores", caption + _only_first(len(rows), len(found), "rows"), fig, runs) if rows else None


def draw_curves(grid: GridResults) -> Drawing | None:
    """Draw score over environment steps, a panel per environment and setting with a finished run."""
    places = list(itertools.product(grid.envs, grid.settings))
    found = [
        (env, setting)
        for env, setting in places
        if any(_evaluations(grid, env, m, setting) is not None for m in grid.methods)
    ]
    shown = found[:PANELS]
    if not shown:
        return None
    fig, axes = make_panels(len(shown))
    for ax, (env, setting) in zip(axes, shown, strict=True):
        for method in grid.methods:
            frame = _evaluations(grid, env, method, setting)
            if frame is not None:
                _draw_curve(ax, frame, method, style_of(grid, method))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        finish_axes(ax, f"{env}{setting_text(setting)}", "environment steps", "score")
    caption = f"Score at each evaluation, {INTERVALS}; runs that diverged are left out from there on."
    caption += _only_first(len(shown), len(found), "panels")
    return Drawing("Learning curves over environment steps", caption, fig, finished_keys(grid, shown))


def _draw_curve(ax: Any, frame: pd.DataFrame, method: str, style: dict[str, str]) -> None:
    by_step = [(numbers(rows, "env_steps").max(), finite(rows, "score")) for _, rows in frame.groupby("step")]
    found = {at: estimate(x, resamples=1000) for at, x in by_step if len(x)}
    if len(found) > 1:
        draw_band(ax, found, legend_text(method), **style)
    elif found:  # a method that takes no environment steps has a single score
        (last,) = found.values()
        ax.axhline(last.value, label=legend_text(f"{method} (no steps)"), lw=1, ls=":", color=style["color"])


def draw_labels(grid: GridResults) -> Drawing | None:
    """Draw score over the number of labels that a run received, a panel per environment."""
    if not numbers(grid.lanes, "labels").any():
        return None
    envs = grid.envs[:PANELS]
    fig, axes = make_panels(len(envs))
    for ax, env in zip(axes, envs, strict=True):
        named: set[str] = set()
        for method, setting in itertools.product(grid.methods, grid.settings):
            frame = _evaluations(grid, env, method, setting)
            if frame is not None and numbers(frame, "labels").any():
                name = None if method in named else legend_text(method)
                draw_band(ax, _scores_by_labels(frame), name, **style_of(grid, method))
                named.add(method)
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
    """Draw the share of runs above each score, a panel per setting."""
    shown = grid.settings[:PANELS]
    taus = np.linspace(0, max(1.2, *1.02 * finite(grid.lanes, "score"), 1.2), 121)
    fig, axes = make_panels(len(shown))
    for ax, setting in zip(axes, shown, strict=True):
        for method in grid.methods:
            if (x := grid.scores(method, setting)) is not None:
                low, high = profile_band(x, taus, rng())
                colour = style_of(grid, method)["color"]
                ax.plot(taus, profile(x, taus), label=legend_text(method), lw=1.5, color=colour)
                ax.fill_between(taus, low, high, alpha=0.12, color=colour, lw=0)
        title = setting_text(setting).removeprefix(", ") or "all environments"
        finish_axes(ax, title, "score", "share of runs above it")
    caption = (
        "The share of runs, over all environments, whose last policy scores above each value, 95 % bootstrap bands."
    )
    caption += _only_first(len(shown), len(grid.settings), "panels")
    runs = finished_keys(grid, itertools.product(grid.envs, shown))
    return Drawing("Performance profiles", caption, fig, runs)


def draw_reward(grid: GridResults) -> Drawing | None:
    """Draw the score of each policy over the accuracy of its learned reward on held-out comparisons."""
    if "pair_accuracy" not in grid.lanes or not len(frame := grid.lanes.dropna(subset=["pair_accuracy", "score"])):
        return None
    fig = Figure(figsize=(6, 4))
    ax = fig.subplots()
    for method in [m for m in grid.methods if m in set(frame["method"])]:
        own, style = frame.loc[frame["method"] == method], style_of(grid, method)
        ax.scatter(own["pair_accuracy"], own["score"], s=25, alpha=0.8, label=legend_text(method), **style)  # type: ignore[arg-type]
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
