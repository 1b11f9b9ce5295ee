"""What the yardstick's measurements came to: read from their csv files, checked, and held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import STAR_NOTE, estimate, format_count
from aihf_control.environments.cards import card_of

Rows = list[dict[str, Any]]
COLUMNS = ("seed", "step", "seconds", "episode", "return", "env", "learner", "precision", "width")


def compare(folder: Path, reach: float = 0.8) -> None:
    """Prints what all files in the folder came to, a mean a seed, and writes it to table.md beside them."""
    if not reach > 0:
        raise BadInput(f"--reach {reach}: give a share above 0")
    files = sorted(folder.glob("*_*.csv"))
    if not files:
        raise BadInput(f"{folder} has no measurements; make some with --env and --learner")
    frame = pd.concat([read(path) for path in files])
    if frame.duplicated(["env", "learner", "precision", "width", "seed", "step", "episode"]).any():
        raise BadInput(
            f"{folder} has two measurements of the same seed; keep one of {', '.join(f.name for f in files)}"
        )
    head = ["environment", "learner", "precision", "width", "steps", "n", "IQM of returns [95 %]", "of each seed"]
    head += ["processor s a seed", f"s to {reach:.0%} of the expert"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for names, rows in frame.groupby(["env", "learner", "precision", "width"]):
        cells = [*map(str, names), *_cells(rows, reach)]  # pyright: ignore[reportArgumentType]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join([*lines, "", STAR_NOTE, ""])
    write_bytes(folder / "table.md", text.encode())
    print(text)


def read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
        for name in ("return", "seconds", "step", "seed"):
            frame[name] = frame[name].astype(float if name in ("return", "seconds") else int)
    except (ValueError, KeyError, OSError) as e:
        raise BadInput(f"cannot read {path}: {e}") from e
    lacking = sorted(set(COLUMNS) - set(frame.dropna(axis=1).columns) - {"seconds"})  # once there was no clock
    if lacking or frame.empty:
        raise BadInput(f"{path} lacks values of {', '.join(lacking or COLUMNS)}")
    return frame


def _cells(rows: pd.DataFrame, reach: float) -> list[str]:
    step = rows["step"].max()
    last = rows.loc[rows["step"] == step]
    n = last["seed"].nunique()
    seeds = np.asarray(last.groupby("seed")["return"].mean(), np.float64)
    each, seconds = " ".join(f"{x:.0f}" for x in seeds), _seconds(float(np.mean(last["seconds"])))
    return [f"{step:,}", format_count(n), str(estimate(seeds)), each, seconds, _time(rows, reach)]


def _time(rows: pd.DataFrame, reach: float) -> str:
    """Median processor seconds to the first evaluation with that share of the expert's return, and how many seeds
    came there."""
    card = card_of(str(rows["env"].iloc[0]))
    if card is None or card.expert_return is None:
        return "-"
    n, first = rows["seed"].nunique(), {}
    for _, at in rows.groupby(["seed", "step"]):  # in the order of steps
        seed = at["seed"].iloc[0]
        if np.mean(at["return"]) >= reach * card.expert_return:
            first.setdefault(seed, float(np.mean(at["seconds"])))
    return f"{_seconds(float(np.median([*first.values()])))} ({len(first)} of {n})" if first else f"none of {n}"


def _seconds(x: float) -> str:
    return "-" if np.isnan(x) else f"{x:.0f}"  # what was measured before their clock was
