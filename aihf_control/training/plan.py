"""The plan of a run: what it trains, on which data, where it writes, and how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from aihf_control.core.text import count
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.models import kernel
from aihf_control.training.estimate import duration, estimate_seconds
from aihf_control.training.run import RunSpec


class PlannedData(NamedTuple):
    """The dataset that a run is planned on. It may not exist yet."""

    spec: EnvSpec
    folder: Path
    state: str
    """Its digest, or that it is made first."""
    sizes: tuple[int, int]
    """Its demonstrations and training comparisons."""


def planned_data(dataset: Dataset, folder: Path) -> PlannedData:
    """Return what a plan says of a dataset."""
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    return PlannedData(spec, folder, dataset.digest(), dataset.sizes)


def planned_default(env: str, folder: Path) -> PlannedData:
    """Return what a plan says of an environment's default dataset that is still to be made."""
    cfg = DataConfig()
    return PlannedData(spec_of(env), folder, "made first", (cfg.demos, cfg.pairs))


def print_plan(console: Console, run_spec: RunSpec, data: PlannedData, workers: int, folder: Path) -> None:
    """Print what the run does, where, and how long it takes."""
    c, p = run_spec, console.print
    p(f"[bold]{c.method}[/] on {data.spec.id}: {count(len(c.seeds), 'seed')}, {count(c.steps, 'iteration')} each")
    n_demos, n_pairs = data.sizes
    shares = _share(c.demos, n_demos, "demonstration"), _share(c.pairs, n_pairs, "comparison")
    p(f"  learns from  {' and '.join(shares)} a seed")
    p(f"  dataset      {data.folder} ({data.state})", soft_wrap=True)
    by = f" ({kernel.state(c.products)})" if c.on_cpu else ""
    p(f"  runs on      {c.device}, {count(workers, 'worker')}, {c.products} products{by}")
    p(f"  writes to    {folder}", soft_wrap=True)
    seconds = estimate_seconds(c, data.spec, workers)
    if seconds:
        p(f"  takes about  {duration(seconds)} of training, and the evaluations")


def _share(n: int, available: int, noun: str) -> str:
    """Format the number of demonstrations or comparisons of a seed, with the available number if it is larger."""
    return count(n, noun) if n >= available else f"{n:,} of {count(available, noun)}"
