"""What a run leaves behind in its folder."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

from aihf_control.core.files import plain, write_json, writing
from aihf_control.data.dataset import Dataset
from aihf_control.training.display import curves, summary
from aihf_control.training.result import Result
from aihf_control.training.run import Cell
from aihf_control.training.run_folder import spelled, versions_of


def begin(folder: Path, options: Any, cell: Cell, dataset: Dataset, where: Path, workers: int) -> None:
    """config.json: flags, versions, commit, and the hash of the data."""
    config = {
        "options": spelled(dataclasses.asdict(options)),
        "workers": workers,
        "cell": spelled(dataclasses.asdict(cell)),
        "dataset": {"folder": where, "digest": dataset.digest(), "sha256": dataset.meta["sha256"]},
        "versions": versions_of(cell),
        "commit": commit(),
    }
    write_json(folder / "config.json", config)


def commit() -> str:
    """The package's own commit, where it lies in a repository."""
    where = Path(__file__).parent
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """A line a row at the end of log.jsonl."""
    with writing(path), path.open("a") as f:
        f.writelines(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)


def save(folder: Path, result: Result, interrupted: bool) -> None:
    """Policy, reward, curves and table of a run that has ended."""
    result.policy.save(folder / "policy.safetensors")
    for lane, seed in enumerate(result.cell.seeds):
        result.policy.export(folder / f"policy_seed{seed}.zip", lane)
    if result.reward is not None:
        result.reward.save(folder / "reward.safetensors")
    curves(result, folder / "curves.png")
    write_json(
        folder / "summary.json", summary(result) | {"interrupted": interrupted}
    )  # last: it says that all is there
