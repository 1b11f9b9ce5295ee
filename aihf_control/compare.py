"""Two runs side by side: what differs in their settings, and in what came out.

python -m aihf_control.compare results/first/Hopper-v4/aihf/20261121-080206-883 results/bench/main/cells/0123abcd-4567
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from aihf_control.core.cli import exit_code
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_json
from aihf_control.core.statistics import estimate, improvement_estimate, mean
from aihf_control.report.load import LATE, finite, numbers, read_log

# flags that change no number
PLACES = ("out", "folder", "resume", "dataset", "checkpoint", "tensorboard", "step_timeout")
QUALITY = {"pair_accuracy": "pair accuracy", "rank_correlation": "rank correlation"}
Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared."""

    first: tyro.conf.Positional[Path]
    """The folder of a finished run."""
    second: tyro.conf.Positional[Path]
    """And of another."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.compare", description=about)
    return exit_code(compare, options.first, options.second)


def compare(first: Path, second: Path) -> None:
    """Prints the differences of two finished runs. Raises BadInput where one is none."""
    configs, logs = [_config(run) for run in (first, second)], [_log(run) for run in (first, second)]
    console = Console(highlight=False, markup=False)
    console.width = console.width if console.is_terminal else 132
    changed = differences(*configs)
    if changed:
        _print(console, "settings", ("", "first", "second"), changed)
    else:
        console.print("the settings are the same")
    _print(console, "results", ("", "first", "second"), list(results(*logs)))
    for line in verdicts(*logs, same_env=configs[0]["env"] == configs[1]["env"]):
        console.print(line)


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Settings that are not the same in both, by name."""
    rows = [(name, *(_replay_rows(c.get(name)) for c in (first, second))) for name in dict.fromkeys([*first, *second])]
    return [row for row in rows if row[1] != row[2]]


def results(*logs: pd.DataFrame) -> list[Row]:
    """What came out of each: IQM over its seeds with 95 % intervals, those that diverged left out."""
    last = [log.groupby("seed").tail(1) for log in logs]
    late = [_late(log) for log in logs]
    rows: list[Row] = [("return", *(_iqm(x, "return") for x in last))]
    rows.append((f"mean of the last {LATE} evaluations", *(_iqm(x, "return") for x in late)))
    rows += [(told, *(_iqm(x, name) for x in last)) for name, told in QUALITY.items()]
    for name in ("step", "env_steps", "labels"):
        rows.append((name.replace("_", " "), *(f"{int(numbers(x, name).max()):,}" for x in last)))
    diverged = [" ".join(str(s) for s in x.loc[~np.isfinite(numbers(x, "return"))]["seed"]) for x in last]
    rows.append(("seeds", *(" ".join(map(str, x["seed"])) for x in last)))
    return [*rows, ("diverged", *(d or "-" for d in diverged))]


def verdicts(first: pd.DataFrame, second: pd.DataFrame, same_env: bool) -> list[str]:
    """How likely the first is to be the better one, a run that diverged being worse than all others, and by how much on
    the seeds that both have and that stayed finite."""
    if not same_env:
        return ["they are of different environments, so their returns say nothing about each other"]
    x, y = (log.groupby("seed").tail(1).set_index("seed")["return"].astype(float) for log in (first, second))
    if not np.isfinite(x).any() or not np.isfinite(y).any():
        return ["all seeds of one diverged"]
    below_all = min(z[np.isfinite(z)].min() for z in (x, y)) - 1  # where a run that diverged is put
    a, b = (np.where(np.isfinite(z), z, below_all)[:, None] for z in (x, y))
    chance = improvement_estimate(a, b, np.random.default_rng(0))
    lines = [
        f"a run of the first returns more than one of the second with probability {chance} (n {len(x)} and {len(y)})"
    ]
    by = np.asarray((x - y).dropna())  # of seeds that both have
    if len(by):
        lines.append(f"on the {len(by)} seeds that both have it returns {estimate(by, mean)} more on average")
    return lines


def _late(log: pd.DataFrame) -> pd.DataFrame:
    """Each seed's mean return over its last evaluations; NaN for one that diverged, whatever it had before."""
    late = log.loc[log["step"] > 0].groupby("seed").tail(LATE).groupby("seed")["return"]
    return late.apply(lambda r: r.astype(float).mean(skipna=False)).reset_index()


def _config(run: Path) -> dict[str, Any]:
    """A run's settings, flat, without its places. Raises BadInput where there is no finished run."""
    if not (run / "summary.json").exists():
        raise BadInput(f"there is no finished run in {run}: it has no summary.json")
    config, path = read_json(run / "config.json"), run / "config.json"
    if not isinstance(config, dict) or not all(isinstance(config.get(n), dict) for n in ("options", "cell", "dataset")):
        raise BadInput(f"{path} is not a run's: its options, cell or dataset are missing or wrong")
    options = {name: value for name, value in config["options"].items() if name not in PLACES}
    tree = {**options, **config["cell"], "data": config["dataset"].get("digest"), "workers": config.get("workers")}
    return flat({**tree, "versions": config.get("versions", {}), "commit": config.get("commit")})


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree's leaves by their path."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _log(run: Path) -> pd.DataFrame:
    return read_log(run / "log.jsonl")


def _iqm(frame: pd.DataFrame, name: str) -> str:
    x = finite(frame, name) if name in frame else np.zeros(0)
    return str(estimate(x)) if len(x) else "-"


def _replay_rows(value: Any) -> str:
    return "-" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print(console: Console, title: str, head: tuple[str, ...], rows: Sequence[Row]) -> None:
    table = Table(*head, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
