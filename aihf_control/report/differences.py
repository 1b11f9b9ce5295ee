"""Differences between two finished runs, in their settings and in their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from aihf_control.core.cli import make_console
from aihf_control.core.config import CHANGES_NO_NUMBER, OF_PEOPLE
from aihf_control.core.errors import BadInput
from aihf_control.core.statistics import LATE, estimate, improvement_estimate, late_mean, mean
from aihf_control.report.columns import BUDGET, OPTIONAL
from aihf_control.report.grid_results import finite, numbers
from aihf_control.report.run_files import read_log, read_table

Row = tuple[str, ...]


def compare(first: Path, second: Path) -> None:
    """Print the differences of two finished runs. Raises BadInput if either is not a finished run."""
    configs = [_read_settings(run) for run in (first, second)]
    logs = [read_log(run / "log.jsonl") for run in (first, second)]
    console = make_console(markup=False, emoji=False)
    changed = find_differences(*configs)
    if changed:
        _print(console, "settings", ("", "first", "second"), changed)
    else:
        console.print("the settings are the same")
    _print(console, "results", ("", "first", "second"), list(list_results(*logs)))
    for line in compare_returns(*logs, same_env=configs[0].get("env") == configs[1].get("env")):
        console.print(line)


def find_differences(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Return a row for every setting that is not the same in both."""
    rows = [(name, *(_setting_text(c.get(name)) for c in (first, second))) for name in dict.fromkeys([*first, *second])]
    return [row for row in rows if row[1] != row[2]]


def list_results(*logs: pd.DataFrame) -> list[Row]:
    """Return a row for every result: the IQM over seeds with its 95 % interval, without seeds that diverged."""
    last = [log.groupby("seed").tail(1) for log in logs]
    late = [_late_means(log) for log in logs]
    rows: list[Row] = [("return", *(_iqm(x, "return") for x in last))]
    rows.append((f"mean of the last {LATE} evaluations", *(_iqm(x, "return") for x in late)))
    rows += [(column.header, *(_iqm(x, column.name) for x in last)) for column in OPTIONAL]
    for name in ("step", *(column.name for column in BUDGET)):
        rows.append((name.replace("_", " "), *(f"{int(numbers(x, name).max()):,}" for x in last)))
    diverged = [" ".join(str(s) for s in x.loc[~np.isfinite(numbers(x, "return"))]["seed"]) for x in last]
    rows.append(("seeds", *(" ".join(map(str, x["seed"])) for x in last)))
    return [*rows, ("diverged", *(d or "-" for d in diverged))]


def compare_returns(first: pd.DataFrame, second: pd.DataFrame, same_env: bool) -> list[str]:
    """Return sentences with the probability that the first is better, and by how much on seeds that both have.

    A run that diverged ranks below all others; the difference is over seeds whose runs are finite in both.
    """
    if not same_env:
        return ["the runs are of different environments, so their returns cannot be compared"]
    x, y = (log.groupby("seed").tail(1).set_index("seed")["return"].astype(float) for log in (first, second))
    if not np.isfinite(x).any() or not np.isfinite(y).any():
        return ["all seeds of one run diverged"]
    below_all = min(z[np.isfinite(z)].min() for z in (x, y)) - 1  # rank of a run that diverged
    a, b = (np.where(np.isfinite(z), z, below_all)[:, None] for z in (x, y))
    chance = improvement_estimate(a, b, np.random.default_rng(0))
    lines = [
        f"a run of the first returns more than one of the second with probability {chance} (n {len(x)} and {len(y)})"
    ]
    by = np.asarray((x - y).dropna())  # of seeds that both have
    if len(by):
        lines.append(f"on the {len(by)} seeds that both have it returns {estimate(by, mean)} more on average")
    return lines


def _late_means(log: pd.DataFrame) -> pd.DataFrame:
    """Return each seed's mean return over its last evaluations; NaN if one of them diverged."""
    late = {seed: late_mean(numbers(own, "step"), numbers(own, "return")) for seed, own in log.groupby("seed")}
    return pd.DataFrame({"seed": list(late), "return": list(late.values())})


def _read_settings(run: Path) -> dict[str, Any]:
    """Read a run's settings as leaves by path, without its folders. Raises BadInput if there is no finished run."""
    if not (run / "summary.json").exists():
        raise BadInput(f"there is no finished run in {run}: it has no summary.json")
    path = run / "config.json"
    config = read_table(path)
    if not all(isinstance(config.get(n), dict) for n in ("options", "cell", "dataset")):
        raise BadInput(f"{path} is not a run's: its options, cell or dataset are missing or wrong")
    unnamed = CHANGES_NO_NUMBER | OF_PEOPLE
    options = {name: value for name, value in config["options"].items() if name not in unnamed or value == "page"}
    tree = {**options, **config["cell"], "data": config["dataset"].get("digest"), "workers": config.get("workers")}
    return flatten({**tree, "versions": config.get("versions", {}), "commit": config.get("commit")})


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their path."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _iqm(frame: pd.DataFrame, name: str) -> str:
    x = finite(frame, name) if name in frame else np.zeros(0)
    return str(estimate(x)) if len(x) else "-"


def _setting_text(value: Any) -> str:
    return "-" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print(console: Console, title: str, head: tuple[str, ...], rows: Sequence[Row]) -> None:
    table = Table(*head, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console.print(table)
