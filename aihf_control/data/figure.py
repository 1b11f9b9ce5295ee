"""Figure of a dataset: episode returns by level, and label accuracy by the difference of true returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import estimate, mean
from aihf_control.data.dataset import Dataset
from aihf_control.data.labelling.teachers import Teacher
from aihf_control.data.pairs import margins
from aihf_control.data.summary import group_episodes, return_spread
from aihf_control.data.ties import find_ties
from aihf_control.report.plotting import png_of

Array = np.ndarray
BINS = 8


def write_figure(dataset: Dataset, path: Path) -> None:
    """Write the figure as a PNG. Raises BadInput if the name does not end in .png."""
    if path.suffix.lower() != ".png":
        raise BadInput(f"--figure {path}: give a name that ends in .png")
    train = dataset.pairs.loc[dataset.pairs["split"] == "train"]
    fig = Figure(figsize=(11, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    _plot_returns(left, dataset)
    if len(train):
        _plot_labels(right, dataset, np.abs(margins(dataset.pool, train)) / return_spread(dataset), train)
    else:
        right.set_axis_off()
    fig.suptitle(f"{dataset.meta['env']}, dataset {dataset.digest()}", fontsize=10)
    write_bytes(path, png_of(fig, dpi=130))


def _plot_returns(ax: Axes, dataset: Dataset) -> None:
    levels, rng = group_episodes(dataset), np.random.default_rng(0)
    for y, episodes in enumerate(levels.values()):
        r = [t.reward.sum() for t in episodes]
        ax.scatter(r, y + rng.uniform(-0.2, 0.2, len(r)), s=14, alpha=0.7, color=f"C{y % 10}")
    for kind, style in (("expert", "--"), ("random", ":")):
        ax.axvline(float(np.mean(dataset.meta[f"{kind}_returns"])), color="black", ls=style, lw=1, label=kind)
    ax.set(yticks=range(len(levels)), yticklabels=list(levels), xlabel="true return of an episode")
    ax.invert_yaxis()
    ax.grid(alpha=0.3, axis="x")
    ax.legend(fontsize=8)


def _plot_labels(ax: Axes, dataset: Dataset, margin: Array, train) -> None:
    """Plot the share of labels that prefer the better segment, in bins of equal size, and its expectation."""
    sure = ~find_ties(train)
    right = (margins(dataset.pool, train) > 0)[sure]
    order = np.argsort(margin[sure], kind="stable")
    for part in np.array_split(order, min(BINS, max(1, len(order) // 5))):
        if len(part):
            share = estimate(right[part].astype(float), mean, resamples=1000)
            bar = np.maximum([[share.value - share.low], [share.high - share.value]], 0)  # rounding may go below 0
            ax.errorbar(margin[sure][part].mean(), share.value, bar, fmt="o", ms=5, color="C0", capsize=2)
    _plot_expectation(ax, dataset, margin)
    ax.hist(
        margin, 30, color="black", alpha=0.15, weights=np.full(len(margin), 1 / len(margin)), label="share of pairs"
    )
    ax.set(xlabel="margin of true returns, in spreads", ylabel="prefers the better segment", ylim=(0, 1.03))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="center right")


def _plot_expectation(ax: Axes, dataset: Dataset, margin: Array) -> None:
    """Plot the expected share, if labels are by return and the teacher weighs all steps alike."""
    annotator, config = dataset.meta.get("annotator", {}), dataset.meta.get("config", {})
    numbers = all(isinstance(annotator.get(name), int | float) for name in ("temperature", "error", "spread", "memory"))
    if not numbers or annotator["memory"] != 1 or annotator.get("parts", 1) != 1 or config.get("label") != "return":
        return
    x = np.linspace(0, margin.max(), 200)[1:]
    prefers = Teacher(annotator["temperature"], spread=annotator["spread"]).preference_probability(
        x * return_spread(dataset)
    )
    right = prefers * (1 - 2 * annotator["error"]) + annotator["error"]
    ax.plot(x, right, color="C1", lw=1, label="expected for this teacher")
