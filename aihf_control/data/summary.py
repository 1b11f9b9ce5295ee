"""Summary of a dataset as printed tables."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from aihf_control.core.cli import make_console, print_table
from aihf_control.core.types import Trajectory, correct_share
from aihf_control.data.dataset import Dataset
from aihf_control.data.pairs import margins, references
from aihf_control.data.ties import find_ties

Array = np.ndarray
EDGES = (0.0, 0.1, 0.3, 1.0, np.inf)  # bins of the margin table, in spreads


def print_summary(dataset: Dataset, folder: Path) -> None:
    """Print levels, returns, lengths, margins, and the share of labels that prefer the better segment."""
    meta, console = dataset.meta, make_console()
    console.print(f"{folder}: {meta['env']}, digest {dataset.digest()}, horizon {meta['horizon']}")
    expert, random = (meta[f"{kind}_returns"] for kind in ("expert", "random"))
    console.print(
        f"greedy expert {np.mean(expert):.0f} ({len(expert)} episodes), "
        f"random actions {np.mean(random):.0f} ({len(random)} episodes)"
    )
    for note in meta.get("notes", []):
        print(f"note: {note}")
    if meta["options"]:
        print(f"environment options: {json.dumps(meta['options'], default=str)}")
    head = "episodes of", "n", "return", "min", "max", "steps", "terminated"
    print_table(console, head, _episode_rows(dataset))
    if meta.get("demo_every", 1) > 1:
        console.print(f"learners receive every {meta['demo_every']}th step of a demonstration")
    for split, rows in dataset.pairs.groupby("split", sort=False):
        console.print(_format_split(dataset, rows, str(split)))
        print_table(console, ("margin, spreads", "comparisons", "ties", "correct"), _comparison_rows(dataset, rows))


def group_episodes(dataset: Dataset) -> dict[str, list[Trajectory]]:
    """Group the episodes of the pool by level; demonstrations form groups of their own."""
    found: dict[str, list[Trajectory]] = {}
    demos = set(dataset.meta["demonstrations"])
    for i, t in enumerate(dataset.pool):
        found.setdefault(f"demonstrations ({t.level})" if i in demos else t.level, []).append(t)
    return found


def _episode_rows(dataset: Dataset) -> list[list[str]]:
    table = []
    for name, episodes in group_episodes(dataset).items():
        r = np.array([t.reward.sum() for t in episodes])
        steps, terminated = np.mean([len(t) for t in episodes]), np.mean([t.terminated for t in episodes])
        numbers = (f"{x:.0f}" for x in (len(r), r.mean(), r.min(), r.max(), steps))
        table.append([name, *numbers, f"{terminated:.0%}"])
    return table


def _format_split(dataset: Dataset, rows: pd.DataFrame, split: str) -> str:
    margin, tied, length = margins(dataset.pool, rows), find_ties(rows), rows["length"].iloc[0]
    compared = "whole trajectories" if length == dataset.meta["horizon"] else f"segments of {length} steps"
    n_ties = int(tied.sum()) // 2
    return (
        f"{len(rows) - n_ties} {split} comparisons, {compared}: {format_agreement(margin[~tied])} prefer the better "
        f"segment, {n_ties} are ties, median margin {np.median(np.abs(margin)):.1f}"
    )


def _comparison_rows(dataset: Dataset, rows: pd.DataFrame) -> list[list[str]]:
    """Count comparisons and correct labels by the difference of true returns."""
    margin, spread, tied = margins(dataset.pool, rows), return_spread(dataset), find_ties(rows)
    table = []
    for low, high in itertools.pairwise(EDGES):
        inside = (np.abs(margin) >= low * spread) & (np.abs(margin) < high * spread)
        sure = inside & ~tied
        n_ties = int((inside & tied).sum()) // 2
        name = f"{low:g} to {high:g}" if high < np.inf else f"{low:g} and more"
        table.append([name, str(int(sure.sum()) + n_ties), str(n_ties), format_agreement(margin[sure])])
    return table


def format_agreement(margin: Array) -> str:
    """Format the share of comparisons whose winner has the higher true return; equal returns count one half."""
    return f"{correct_share(margin).mean():.1%}" if len(margin) else "-"


def return_spread(dataset: Dataset) -> float:
    """Compute the standard deviation of the true returns of all compared segments."""
    clips = references(dataset.pairs, "win") + references(dataset.pairs, "lose")
    return float(np.std([dataset.pool[i].return_of(start, length) for i, start, length in clips])) or 1.0
