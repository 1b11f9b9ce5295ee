"""The plan of a run: what it trains, on which data, where it writes, and how long it takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from aihf_control.core.text import count, duration
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.models import kernel_library
from aihf_control.training.estimate import Expected, dataset_seconds, estimate, load_factor, small_dataset_config
from aihf_control.training.run import RunSpec

BUSY = 1.5  # load from which the plan tells it


class PlannedData(NamedTuple):
    """The dataset that a run is planned on. It may not exist yet."""

    spec: EnvSpec
    folder: Path
    state: str
    """Its digest, or that it is made first."""
    sizes: tuple[int, int]
    """Its demonstrations and training comparisons."""
    dataset: Dataset | None = None
    """Itself, if it exists."""


def planned_data(dataset: Dataset, folder: Path) -> PlannedData:
    """Return what a plan says of a dataset."""
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    return PlannedData(spec, folder, dataset.digest(), dataset.sizes, dataset)


def planned_default(env: str, folder: Path) -> PlannedData:
    """Return what a plan says of an environment's default dataset that is still to be made."""
    cfg = DataConfig()
    return PlannedData(spec_of(env), folder, "made first", (cfg.demos, cfg.pairs))


def expect(run_spec: RunSpec, data: PlannedData, workers: int, known: bool = False) -> Expected | None:
    """Return how long a run takes, None if that cannot be said; `known`: only what was timed before.

    Where the dataset does not exist, a small one takes its place.
    """
    dataset = data.dataset
    if dataset:
        return estimate(run_spec, data.spec, workers, lambda: dataset, known)
    small = small_dataset_config(run_spec.demos, run_spec.pairs, data.spec.horizon)
    found = estimate(run_spec, data.spec, workers, lambda: make_dataset(data.spec.id, small), known)
    return found and dataclasses.replace(found, dataset=dataset_seconds(DataConfig(), data.spec))


def print_plan(
    console: Console, run_spec: RunSpec, data: PlannedData, workers: int, folder: Path, expected: Expected | None
) -> None:
    """Print what the run does, where, and how long it takes."""
    c, p = run_spec, console.print
    p(f"[bold]{c.method}[/] on {data.spec.id}: {count(len(c.seeds), 'seed')}, {count(c.steps, 'iteration')} each")
    n_demos, n_pairs = data.sizes
    shares = _share(c.demos, n_demos, "demonstration"), _share(c.pairs, n_pairs, "comparison")
    p(f"  learns from  {' and '.join(shares)} a seed")
    p(f"  dataset      {data.folder} ({data.state})", soft_wrap=True)
    by = f" ({kernel_library.state(c.products)})" if c.on_cpu else ""
    p(f"  runs on      {c.device}, {count(workers, 'worker')}, {c.products} products{by}", soft_wrap=True)
    p(f"  writes to    {folder}", soft_wrap=True)
    if expected:
        p(f"  takes about  {format_expected(expected, workers)}", soft_wrap=True)


def format_expected(expected: Expected, workers: int) -> str:
    """Format how long a run takes: in all, its parts, and at the present load of the machine if that matters."""
    making = f"{duration(expected.dataset)} for the dataset, " if expected.dataset else ""
    before, after = duration(expected.start + expected.first), duration(expected.evaluations)
    parts = f"{making}{before} before training, {duration(expected.training)} of training, {after} of evaluations"
    load = load_factor(workers)
    busy = f"\n               at the present load of this machine about {duration(load * expected.total)}"
    return f"{duration(expected.total)}: {parts}{busy if load > BUSY else ''}"


def _share(n: int, available: int, noun: str) -> str:
    """Format the number of demonstrations or comparisons of a seed, with the available number if it is larger."""
    return count(n, noun) if n >= available else f"{n:,} of {count(available, noun)}"
