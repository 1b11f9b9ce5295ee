"""The figures of a grid, each with a caption and the runs that it shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy import stats

from aihf_control.core.config import as_word
from aihf_control.core.statistics import Estimate, aggregate, estimate, iqm_of_all, profile, profile_band
from aihf_control.report.load import GridResults, finite, numbers
from aihf_control.report.plotting import (
    Picture,
    Setting,
    band,
    finish,
    panels_of,
    picture,
    point,
    setting_text,
    style_of,
)
from aihf_control.report.tables import label, rng

Array = np.ndarray
PANELS = 24  # more than these are not drawn
INTERVALS = "IQM and 95 % bootstrap interval over seeds"


def figures_of(grid: GridResults) -> list[Picture]:
    """Those that the experiment asks for and that have something to show."""
    drawn = {"scores": scores, "curves": curves, "labels": labels, "profiles": profiles, "dials": dials}
    drawn |= {"reward": reward}
    return [picture for name in grid.report.figures if (picture := drawn[name](grid))]


def scores(grid: GridResults) -> Picture | None:
    """Every method's score with its interval, all environments together."""
    rows = [(m, s, x) for s in grid.settings() for m in grid.methods if (x := grid.scores(m, s)) is not None]
    fig = Figure(figsize=(7, 1 + 0.28 * len(rows)))
    ax = fig.subplots()
    for y, (method, _, x) in enumerate(rows):
        found = aggregate(x, iqm_of_all, rng())
        point(ax, found.value, y, found, "x", **style_of(grid, method))
    ax.set_yticks(range(len(rows)), [f"{method}{setting_text(setting)}" for method, setting, _ in rows])
    ax.invert_yaxis()
    ax.axvline(1, color="black", ls="--", lw=1)
    finish(ax, "", "score (0 random, 1 expert)", "")
    caption = f"Score of each run's last policy, {INTERVALS}, environments together; a run that diverged counts as 0."
    runs = [run.key for method, setting, _ in rows for run in grid.of(method, setting)]
    return picture("scores", "Scores", caption, fig, runs) if rows else None


def curves(grid: GridResults) -> Picture | None:
    """Score over environment steps, a panel for each environment and setting of which something has been run."""
    every = itertools.product(grid.envs, grid.settings())
    shown = [at for at in every if any(_evaluations(grid, at[0], m, at[1]) is not None for m in grid.methods)][:PANELS]
    if not shown:
        return None
    fig, axes = panels_of(len(shown))
    for ax, (env, setting) in zip(axes, shown, strict=True):
        for method in grid.methods:
            frame = _evaluations(grid, env, method, setting)
            if frame is not None:
                _curve(ax, frame, method, style_of(grid, method))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        finish(ax, f"{env}{setting_text(setting)}", "environment steps", "score")
    caption = f"Score at each evaluation, {INTERVALS}; runs that diverged are left out from there on."
    return picture("curves", "Learning curves over environment steps", caption, fig, _finished(grid, shown))


def _curve(ax: Any, frame: pd.DataFrame, method: str, style: dict[str, str]) -> None:
    by_step = [(numbers(rows, "env_steps").max(), finite(rows, "score")) for _, rows in frame.groupby("step")]
    found = {at: estimate(x, resamples=1000) for at, x in by_step if len(x)}
    if len(found) > 1:
        band(ax, found, method, **style)
    elif found:  # a method that takes no environment steps ends where it ends
        (last,) = found.values()
        ax.axhline(last.value, label=f"{method} (no steps)", lw=1, ls=":", color=style["color"])


def labels(grid: GridResults) -> Picture | None:
    """Score over the labels that a run was given, a panel for each environment."""
    if not numbers(grid.lanes, "labels").any():
        return None
    fig, axes = panels_of(len(grid.envs))
    for ax, env in zip(axes, grid.envs, strict=True):
        for method, setting in itertools.product(grid.methods, grid.settings()):
            frame = _evaluations(grid, env, method, setting)
            if frame is not None and numbers(frame, "labels").any():
                name = None if method in ax.get_legend_handles_labels()[1] else method
                band(ax, _by_labels(frame), name, **style_of(grid, method))
        finish(ax, env, "labels", "score")
    over = "of the last policy or, where a method asks as it goes, of every evaluation"
    caption = f"Score {over} over the comparisons that a seed was given, {INTERVALS}."
    shown = _finished(grid, itertools.product(grid.envs, grid.settings()))
    return picture("labels", "Score over labels", caption, fig, shown)


def _by_labels(frame: pd.DataFrame) -> dict[float, Estimate]:
    """Score by number of labels: of each evaluation, or of the last where all labels were there from the start."""
    asked = frame.loc[frame["labels"] > 0]
    if len(set(asked["labels"])) == 1:
        asked = asked.groupby("seed").tail(1)
    by = {float(n): finite(rows, "score") for n, rows in asked.groupby("labels")}  # type: ignore[arg-type]
    return {n: estimate(x, resamples=1000) for n, x in by.items() if len(x)}


def profiles(grid: GridResults) -> Picture | None:
    """The share of runs above each score, a panel for each setting."""
    shown = grid.settings()[:PANELS]
    taus = np.linspace(0, max(1.2, *1.02 * finite(grid.lanes, "score")), 121)
    fig, axes = panels_of(len(shown))
    for ax, setting in zip(axes, shown, strict=True):
        for method in grid.methods:
            if (x := grid.scores(method, setting)) is not None:
                low, high = profile_band(x, taus, rng())
                colour = style_of(grid, method)["color"]
                ax.plot(taus, profile(x, taus), label=method, lw=1.5, color=colour)
                ax.fill_between(taus, low, high, alpha=0.12, color=colour, lw=0)
        finish(ax, setting_text(setting).removeprefix(", ") or "all environments", "score", "share of runs above it")
    caption = (
        "The share of runs, over all environments, whose last policy scores above each value, 95 % bootstrap bands."
    )
    runs = _finished(grid, itertools.product(grid.envs, shown))
    return picture("profiles", "Performance profiles", caption, fig, runs)


# --------------------------------------------------------------------------------------------------------------- dials


def dials(grid: GridResults) -> Picture | None:
    """One dial: score over it, a line a method. Two: a heat map a method. Otherwise nothing."""
    if len(grid.dials) == 1:
        return _over_dial(grid, grid.dials[0])
    return _heat(grid, *grid.dials) if len(grid.dials) == 2 else None


def _over_dial(grid: GridResults, dial: str) -> Picture:
    values = [setting[dial] for setting in grid.settings()]
    fig = Figure(figsize=(7, 4))
    ax = fig.subplots()
    for i, method in enumerate(grid.methods):
        scored = [(at, grid.scores(method, {dial: value})) for at, value in enumerate(values)]
        aside = 0.04 * (i - (len(grid.methods) - 1) / 2)  # so that no interval hides another
        found = {at + aside: aggregate(x, iqm_of_all, rng()) for at, x in scored if x is not None}
        style = style_of(grid, method)
        ax.plot(list(found), [e.value for e in found.values()], lw=1, color=style["color"], label=method)
        for x, e in found.items():
            point(ax, x, e.value, e, "y", **style)
    ax.set_xticks(range(len(values)), [str(as_word(value)) for value in values])
    finish(ax, "", label(dial), "score")
    title = f"Score over {label(dial)}"
    runs = _finished(grid, itertools.product(grid.envs, grid.settings()))
    return picture("dials", title, f"{title}, {INTERVALS}, environments together.", fig, runs)


def _heat(grid: GridResults, down: str, across: str) -> Picture:
    rows, columns = (list(dict.fromkeys(setting[dial] for setting in grid.settings())) for dial in (down, across))
    fig, axes = panels_of(len(grid.methods))
    for ax, method in zip(axes, grid.methods, strict=True):
        found = [[grid.scores(method, {down: y, across: x}) for x in columns] for y in rows]
        value = np.array([[np.nan if x is None else iqm_of_all(x) for x in row] for row in found])
        ax.imshow(value, vmin=0, vmax=1.1, cmap="viridis", aspect="auto")
        for (i, j), x in np.ndenumerate(value):
            if np.isfinite(x):
                ax.text(j, i, f"{x:.2f}", ha="center", va="center", color="white" if x < 0.6 else "black")
        ax.set_xticks(range(len(columns)), [str(as_word(x)) for x in columns])
        ax.set_yticks(range(len(rows)), [str(as_word(y)) for y in rows])
        ax.set(title=method, xlabel=label(across), ylabel=label(down))
    title = f"Score by {label(down)} and {label(across)}"
    caption = f"{title}: IQM over seeds and environments; the table of scores has the intervals."
    runs = _finished(grid, itertools.product(grid.envs, grid.settings()))
    return picture("dials", title, caption, fig, runs)


def reward(grid: GridResults) -> Picture | None:
    """What a learned reward is worth on held-out comparisons against what the policy is worth."""
    frame = grid.lanes.dropna(subset=["pair_accuracy", "score"])
    if not len(frame):
        return None
    fig = Figure(figsize=(6, 4))
    ax = fig.subplots()
    for method in [m for m in grid.methods if m in set(frame["method"])]:
        own, style = frame.loc[frame["method"] == method], style_of(grid, method)
        ax.scatter(own["pair_accuracy"], own["score"], s=25, alpha=0.8, label=method, **style)  # type: ignore[arg-type]
    finish(ax, "", "accuracy on held-out comparisons", "score")
    caption = "A point a run: the learned reward's accuracy on held-out comparisons, and the score of its policy."
    accuracy, score = numbers(frame, "pair_accuracy"), numbers(frame, "score")
    if np.ptp(accuracy) and np.ptp(score):
        rank = stats.spearmanr(accuracy, score).statistic  # pyright: ignore[reportAttributeAccessIssue]
        caption += f" Spearman's rank correlation over these {len(frame)} runs: {rank:.2f}."
    return picture("reward", "Reward accuracy against score", caption, fig, frame["cell"])


# ------------------------------------------------------------------------------------------------- what is looked up


def _evaluations(grid: GridResults, env: str, method: str, setting: Setting) -> pd.DataFrame | None:
    runs = [run for run in grid.of(method, setting, env) if run.state == "finished"]
    return grid.evaluations.loc[grid.evaluations["cell"] == runs[0].key] if runs else None


def _finished(grid: GridResults, shown: Iterable[tuple[str, Setting]]) -> list[str]:
    """The runs of some environments and settings that have finished."""
    wanted = list(shown)
    return [run.key for run in grid.runs if run.state == "finished" and (run.env, run.dials) in wanted]
