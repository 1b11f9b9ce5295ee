"""Terminal output of a grid: the plan with its duration, the progress, and a ledger of every attempt."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aihf_control.bench.grid import CellJob
from aihf_control.bench.local import Advanced, Attempted, Event, Started
from aihf_control.core.cli import make_console, print_table
from aihf_control.core.config import as_word
from aihf_control.core.files import read_bytes, writing
from aihf_control.core.live import make_bar
from aihf_control.core.text import duration
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import make_dataset
from aihf_control.environments.gym import spec_of
from aihf_control.environments.watchdog import watch
from aihf_control.report.run_files import is_number
from aihf_control.training.estimate import estimate, small_dataset_config
from aihf_control.training.options import run_spec_of
from aihf_control.training.run import RunSpec

Expected = dict[str, float | None]  # seconds on one core by key; None if unknown


class Ledger:
    """File with a line per attempt at a cell: key, number, exit code, seconds."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, event: Attempted) -> None:
        """Append an attempt, on a line of its own even if the last line was cut off."""
        line = {"key": event.job.key, "attempt": event.attempt, "code": event.code, "seconds": round(event.seconds, 1)}
        with writing(self.path), self.path.open("ab+") as f:
            end = f.seek(0, os.SEEK_END)
            f.seek(max(0, end - 1))
            f.write(b"\n" * (f.read(1) not in (b"", b"\n")) + json.dumps(line).encode() + b"\n")

    def seconds(self) -> dict[str, float]:
        """Return the seconds of all attempts at each cell. Damaged lines are skipped, with a note."""
        sums: dict[str, float] = {}
        lines = read_bytes(self.path).splitlines() if self.path.exists() else []
        attempts = [attempt for line in lines if (attempt := _attempt_of(line))]
        if len(attempts) < len(lines):
            print(f"note: {self.path}: {len(lines) - len(attempts)} damaged lines are skipped; only times are lost")
        for key, seconds in attempts:
            sums[key] = sums.get(key, 0.0) + seconds
        return sums


def _attempt_of(line: bytes) -> tuple[str, float] | None:
    """Return key and seconds of a line of the ledger; None if the line is damaged."""
    try:
        row = json.loads(line)
        key, seconds = row["key"], row["seconds"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = isinstance(key, str) and is_number(seconds) and seconds >= 0
    return (key, float(seconds)) if fits else None


def expected_seconds(
    jobs: Sequence[CellJob], ledger: Ledger, timing: bool = True, guesses: Expected | None = None
) -> Expected:
    """Return each cell's seconds: as measured, as the mean of similar cells, or as estimated.

    Without `timing`, which takes seconds per kind of cell, only estimates from earlier times are used. What is found
    for a kind of cell is added to `guesses`, so that several grids can share it.
    """
    measured = ledger.seconds()
    known = {job.key: measured[job.key] for job in jobs if job.key in measured and _is_finished(job)}
    kinds: dict[str, list[float]] = {}
    for job in jobs:
        if job.key in known:
            kinds.setdefault(_kind(job), []).append(known[job.key])
    guesses = {} if guesses is None else guesses
    guesses |= {kind: float(np.mean(seconds)) for kind, seconds in kinds.items()}
    for job in jobs:
        if _kind(job) not in guesses and not _is_finished(job):
            guesses[_kind(job)] = _estimate(job, timing)
    return {job.key: known.get(job.key, guesses.get(_kind(job))) for job in jobs}


def _is_finished(job: CellJob) -> bool:
    return (job.folder / "summary.json").exists()


def _kind(job: CellJob) -> str:
    """Return the settings that determine how long a cell takes."""
    options = job.cell.options
    return repr((options.env, options.method, options.seeds, options.device, options.precision, job.cell.cfg))


def _estimate(job: CellJob, timing: bool) -> float | None:
    options = job.cell.options
    if options.device != "cpu" and not torch.cuda.is_available():  # another machine has one
        return None
    with watch(options.env, options.step_timeout):
        spec = spec_of(options.env, **job.cell.env_options)
        run_spec = run_spec_of(options, job.cell.cfg)
        found = estimate(run_spec, spec, 1, lambda: _data_of(job), known=not timing)
    return found and found.total


def _data_of(job: CellJob) -> Dataset:
    """Return the dataset of a cell, or a small one in its place if it is not made yet."""
    folder = job.source or job.dataset
    if (folder / "meta.json").exists():
        return Dataset.load(folder)
    options = job.cell.options
    sizes = options.demos or RunSpec.demos, options.pairs or RunSpec.pairs
    horizon = spec_of(options.env, **job.cell.env_options).horizon
    return make_dataset(options.env, small_dataset_config(*sizes, horizon), options=job.cell.env_options)


def title_of(job: CellJob) -> str:
    """Return a cell's title: method, environment and swept factors."""
    swept = "".join(f", {name.rpartition('.')[2]} {as_word(value)}" for name, value in job.cell.swept.items())
    return f"{job.cell.name} on {job.cell.options.env}{swept}"


Plan = tuple[str, Sequence[CellJob], Expected]  # a grid's name, cells and their times


def print_plans(plans: Sequence[Plan], workers: int) -> None:
    """Print the cells of grids, which of them are finished, how long the others will take, and the total."""
    console = make_console(markup=False, emoji=False)
    left: list[float | None] = []
    for name, jobs, expected in plans:
        own = [expected[job.key] for job in jobs if not _is_finished(job)]
        if len(plans) > 1:
            console.print(f"{name}: {_total(len(jobs), own, workers)}", soft_wrap=True)
        head = ("cell", "key", "seeds", "state", "takes about")
        print_table(console, head, [_plan_row(job, expected[job.key]) for job in jobs])
        left += own
    total = _total(sum(len(jobs) for _, jobs, _ in plans), left, workers)
    console.print(total if len(plans) == 1 else f"{len(plans)} grids: {total}", soft_wrap=True)


def _plan_row(job: CellJob, seconds: float | None) -> tuple[str, ...]:
    done, begun = ((job.folder / name).exists() for name in ("summary.json", "config.json"))
    state = "finished" if done else "begun" if begun else "to do"
    about = duration(seconds) if seconds is not None else "?"
    return title_of(job), job.key, str(job.cell.options.seeds), state, about


def _total(cells: int, left: Sequence[float | None], workers: int) -> str:
    """Return how many of some cells are finished, and how long those that are `left` take."""
    known = [seconds for seconds in left if seconds is not None]
    unknown = f", and {len(left) - len(known)} for which there is no estimate" if len(known) < len(left) else ""
    counts = f"{cells} cells, {cells - len(left)} finished; of the rest {len(known)} take about"
    total = f"{duration(sum(known))} of one core, {duration(sum(known) / workers)} with {workers} at a time{unknown}"
    return f"{counts} {total}"


class GridDisplay:
    """Progress of a grid. As a context, it shows live bars on a terminal, else a line per cell."""

    def __init__(self, titles: dict[str, str], expected: Expected, shares: dict[str, float]):
        known = [seconds for seconds in expected.values() if seconds]
        usual = float(np.median(known)) if known else 1.0
        self.titles = titles
        self.weights = {key: expected.get(key) or usual for key in titles}
        self.shares, self.finished = dict(shares), {key for key, share in shares.items() if share == 1}
        self.progress = make_bar(24)
        self.console = self.progress.console
        self.bar = self.progress.add_task("grid", total=sum(self.weights.values()), line="")
        self.bars: dict[str, Any] = {}
        self.began, self.before = time.monotonic(), self._done()

    def __enter__(self) -> GridDisplay:
        if self.finished:
            self._print(f"{len(self.finished)} of {len(self.titles)} cells are finished already")
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        """Show an event of the engine."""
        key = event.job.key
        if isinstance(event, Started):
            again = f"attempt {event.attempt}" if event.attempt > 1 else ""
            self.bars[key] = self.progress.add_task(f"  {self.titles[key]}", total=1.0, line=again)
        if isinstance(event, Advanced):
            self.shares[key] = event.share
            self.progress.update(self.bars[key], completed=event.share)
        if isinstance(event, Attempted):
            self.progress.remove_task(self.bars.pop(key))
            self._show_end(event)
        self.progress.update(self.bar, completed=self._done(), line=self._line())

    def _show_end(self, event: Attempted) -> None:
        key, took = event.job.key, f"{duration(event.seconds)}, attempt {event.attempt}"
        if event.code == 0:
            self.finished.add(key)
            self.shares[key] = 1.0
            self._print(f"{self._line()}: finished {self.titles[key]} ({took})")
        elif event.code != 143:
            self.shares[key] = 1.0 if event.final else self.shares[key]  # a job that failed has nothing left to do
            what = "failed" if event.final else "will retry"
            ended = f"{self.titles[key]} ended with {event.code} ({took}): {event.message}"
            self._print(f"{self._line()}: {what}: {ended}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _done(self) -> float:
        return sum(self.weights[key] * share for key, share in self.shares.items())

    def _line(self) -> str:
        done, left = self._done() - self.before, sum(self.weights.values()) - self._done()
        pace = (time.monotonic() - self.began) / done if done > 0 else 0.0
        time_left = f", about {duration(pace * left)} left" if pace and left > 0 else ""
        return f"{len(self.finished)} of {len(self.titles)} cells{time_left}"
