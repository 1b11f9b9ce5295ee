"""What a dataset holds, told in tables."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from aihf_control.core.types import Trajectory, correct_share
from aihf_control.data.dataset import Dataset, margins, references
from aihf_control.data.ties import ties

Array = np.ndarray
EDGES = (0.0, 0.1, 0.3, 1.0, np.inf)  # of the margins' table, in spreads


def describe(dataset: Dataset, where: Path) -> None:
    """Prints levels, returns, lengths, margins, and how often the labels name the better clip."""
    meta, console = dataset.meta, Console(highlight=False)
    console.print(f"{where}: {meta['env']}, digest {dataset.digest()}, horizon {meta['horizon']}")
    expert, random = (meta[f"{kind}_returns"] for kind in ("expert", "random"))
    console.print(
        f"greedy expert {np.mean(expert):.0f} ({len(expert)} episodes), "
        f"random actions {np.mean(random):.0f} ({len(random)} episodes)"
    )
    console.print(_episodes(dataset))
    if meta.get("demo_every", 1) > 1:
        console.print(f"learners get every {meta['demo_every']}th step of a demonstration")
    for split, rows in dataset.pairs.groupby("split", sort=False):
        console.print(_said(dataset, rows, str(split)), _comparisons(dataset, rows))


def groups(dataset: Dataset) -> dict[str, list[Trajectory]]:
    """The pool's episodes by who acted, demonstrations apart."""
    found: dict[str, list[Trajectory]] = {}
    demos = set(dataset.meta["demonstrations"])
    for i, t in enumerate(dataset.pool):
        found.setdefault(f"demonstrations ({t.level})" if i in demos else t.level, []).append(t)
    return found


def _episodes(dataset: Dataset) -> Table:
    table = Table("episodes of", "n", "return", "min", "max", "steps", "fell", box=box.SIMPLE_HEAD)
    for name, episodes in groups(dataset).items():
        r = np.array([t.reward.sum() for t in episodes])
        steps, fell = np.mean([len(t) for t in episodes]), np.mean([t.terminated for t in episodes])
        numbers = (f"{x:.0f}" for x in (len(r), r.mean(), r.min(), r.max(), steps))
        table.add_row(name, *numbers, f"{fell:.0%}")
    return table


def _said(dataset: Dataset, rows: pd.DataFrame, split: str) -> str:
    margin, tied, length = margins(dataset.pool, rows), ties(rows), rows["length"].iloc[0]
    compared = "whole trajectories" if length == dataset.meta["horizon"] else f"clips of {length} steps"
    n_ties = int(tied.sum()) // 2
    return (
        f"{len(rows) - n_ties} comparisons to {split} on, {compared}: {agreement(margin[~tied])} name the better "
        f"clip, {n_ties} are ties, median margin {np.median(np.abs(margin)):.1f}"
    )


def _comparisons(dataset: Dataset, rows: pd.DataFrame) -> Table:
    """By how far apart the clips of a pair truly are, how many pairs there are and how many labels are right."""
    margin, spread, tied = margins(dataset.pool, rows), spread_of(dataset), ties(rows)
    table = Table("margin, spreads", "comparisons", "ties", "name the better", box=box.SIMPLE_HEAD)
    for low, high in itertools.pairwise(EDGES):
        inside = (np.abs(margin) >= low * spread) & (np.abs(margin) < high * spread)
        sure = inside & ~tied
        n_ties = int((inside & tied).sum()) // 2
        name = f"{low:g} to {high:g}" if high < np.inf else f"{low:g} and more"
        table.add_row(name, str(int(sure.sum()) + n_ties), str(n_ties), agreement(margin[sure]))
    return table


def agreement(margin: Array) -> str:
    """Share of comparisons whose winner truly paid more; of two clips that paid the same either is half right."""
    return f"{correct_share(margin).mean():.1%}" if len(margin) else "-"


def spread_of(dataset: Dataset) -> float:
    """Standard deviation of the compared clips' true returns."""
    clips = references(dataset.pairs, "win") + references(dataset.pairs, "lose")
    return float(np.std([dataset.pool[i].return_of(start, length) for i, start, length in clips])) or 1.0
