"""The commands around a run: `aihf data`, `aihf experts`, and the door `aihf` to all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from aihf_control import bench, compare, report, run, speed, yardstick
from aihf_control.data import Trajectory
from aihf_control.dataset import Dataset, references
from aihf_control.expert_commands import experts_main
from aihf_control.files import BadInput, exit_code, subcommands
from aihf_control.generate import DataConfig, make_dataset

Positional = tyro.conf.Positional
DATA = DataConfig()


def main(argv: Sequence[str] | None = None) -> int:
    """`aihf run|data|experts|bench|report|compare|yardstick|speed ...`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    doors = {
        "run": run.main,
        "data": data_main,
        "experts": experts_main,
        "bench": bench.main,
        "report": report.main,
        "compare": compare.main,
        "yardstick": yardstick.main,
        "speed": speed.main,
    }
    if not argv or argv[0] not in doors:
        print(f"usage: aihf {{{','.join(doors)}}} ... (each has --help)", file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return doors[argv[0]](argv[1:])


# ---------------------------------------------------------------------------------------------------------------- data


def data_main(argv: Sequence[str] | None = None) -> int:
    """`python -m aihf_control.data make|show ...`."""
    return exit_code(subcommands, {"make": make, "show": show}, argv, "aihf_control.data")


def make(
    env: str,
    out: Path,
    policy: tuple[str, ...] = (),
    cfg: Annotated[DataConfig, tyro.conf.arg(name="")] = DATA,
) -> None:
    """Makes a dataset: rollouts of graded policies, demonstrations, and comparisons of their clips.

    Args:
        env: Gymnasium id.
        out: Folder to write.
        policy: LEVEL=FILE.zip, for each level an SB3 zip to use in place of the bundled policies.
        cfg: What the dataset is made of.
    """
    policies = dict(_level(word) for word in policy) or None
    began = time.monotonic()
    dataset = make_dataset(env, cfg, policies, out)
    print(f"made in {time.monotonic() - began:.1f} s")
    _describe(dataset, out)


def show(folder: Positional[Path]) -> None:
    """Prints what a dataset holds: levels, returns, lengths, margins, and how often its labels are right.

    Args:
        folder: The dataset.
    """
    _describe(Dataset.load(folder), folder)


def _level(word: str) -> tuple[str, Path]:
    level, equals, path = word.partition("=")
    if not equals:
        raise BadInput(f"--policy {word}: write it as LEVEL=FILE.zip")
    return level, Path(path)


def _describe(dataset: Dataset, where: Path) -> None:
    meta, console = dataset.meta, Console(highlight=False)
    console.print(f"{where}: {meta['env']}, digest {dataset.digest()}, horizon {meta['horizon']}")
    returns = {kind: np.mean(meta[f"{kind}_returns"]) for kind in ("expert", "random")}
    console.print(f"greedy expert {returns['expert']:.0f}, random actions {returns['random']:.0f} (20 episodes each)")
    table = Table("episodes of", "n", "return", "min", "max", "steps", "fell", box=box.SIMPLE_HEAD)
    demos = set(meta["demonstrations"])
    groups: dict[str, list[Trajectory]] = {}
    for i, t in enumerate(dataset.pool):
        groups.setdefault(f"demonstrations ({t.level})" if i in demos else t.level, []).append(t)
    for name, episodes in groups.items():
        r = np.array([t.reward.sum() for t in episodes])
        steps, fell = np.mean([len(t) for t in episodes]), np.mean([t.terminated for t in episodes])
        row = (
            name,
            len(episodes),
            f"{r.mean():.0f}",
            f"{r.min():.0f}",
            f"{r.max():.0f}",
            f"{steps:.0f}",
            f"{fell:.0%}",
        )
        table.add_row(*map(str, row))
    console.print(table)
    for split, rows in dataset.pairs.groupby("split", sort=False):
        margin, length = _margins(dataset.pool, rows), rows["length"].iloc[0]
        compared = "whole trajectories" if length == meta["horizon"] else f"clips of {length} steps"
        console.print(
            f"{len(rows)} comparisons to {split} on, {compared}: "
            f"{(margin > 0).mean():.1%} name the better clip, median margin {np.median(np.abs(margin)):.1f}"
        )


def _margins(pool: Sequence[Trajectory], rows: pd.DataFrame) -> np.ndarray:
    """By how much the true return of each winning clip exceeds the losing one's, (N,)."""
    win, lose = (
        np.array([pool[episode].gain(start, length) for episode, start, length in references(rows, side)])
        for side in ("win", "lose")
    )
    return win - lose


if __name__ == "__main__":
    sys.exit(main())
