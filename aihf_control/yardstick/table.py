"""Table of the yardstick's measurements: read their csv files, check them, and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.statistics import STAR_NOTE, estimate, format_count
from aihf_control.core.tables import read_csv
from aihf_control.environments.cards import card_of

Rows = list[dict[str, Any]]
KINDS = {"seed": int, "step": int, "seconds": float, "episode": int, "return": float, "width": int}
KINDS |= {name: str for name in ("env", "learner", "precision")}


def compare(folder: Path, reach: float = 0.8) -> None:
    """Print a table of all measurements in the folder and write it to table.md. Raises BadInput.

    Its last columns give the processor seconds to the first evaluation that reaches the share `reach` of the bundled
    expert's return.
    """
    if not reach > 0:
        raise BadInput(f"--reach must be a share above 0, got {reach}")
    files = sorted(folder.glob("*_*.csv"))
    if not files:
        raise BadInput(f"{folder} has no measurements; make one with --env and --learner")
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
    """Read a measurement's csv. Raises BadInput if a column or a value is missing."""
    frame = read_csv(path, KINDS)
    if frame["return"].isna().to_numpy().any():
        raise BadInput(f"{path} lacks values of return")
    return frame


def _cells(rows: pd.DataFrame, reach: float) -> list[str]:
    """Format the cells of one measurement after its names."""
    step = rows["step"].max()
    last = rows.loc[rows["step"] == step]
    n = last["seed"].nunique()
    seeds = np.asarray(last.groupby("seed")["return"].mean(), np.float64)
    each, seconds = " ".join(f"{x:.0f}" for x in seeds), _format_seconds(float(np.mean(last["seconds"])))
    return [f"{step:,}", format_count(n), str(estimate(seeds)), each, seconds, _format_time(rows, reach)]


def _format_time(rows: pd.DataFrame, reach: float) -> str:
    """Format the median processor seconds to the first evaluation above the share, and the number of seeds with one."""
    card = card_of(str(rows["env"].iloc[0]))
    if card is None or card.expert_return is None:
        return "-"
    n, first = rows["seed"].nunique(), {}
    for _, at in rows.groupby(["seed", "step"]):  # in the order of steps
        seed = at["seed"].iloc[0]
        if np.mean(at["return"]) >= reach * card.expert_return:
            first.setdefault(seed, float(np.mean(at["seconds"])))
    return f"{_format_seconds(float(np.median([*first.values()])))} ({len(first)} of {n})" if first else f"none of {n}"


def _format_seconds(x: float) -> str:
    return "-" if np.isnan(x) else f"{x:.0f}"  # old measurements have none
