"""What a person sees of a grid: the plan with its time, the progress, and a ledger of every attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from aihf_control.bench.grid import CellJob
from aihf_control.bench.local import Advanced, Attempted, Event, Started
from aihf_control.core.config import as_word
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, writing
from aihf_control.environments.gym import spec_of
from aihf_control.training.estimate import duration, estimate_seconds
from aihf_control.training.options import run_spec_of

Expected = dict[str, float | None]  # seconds on one core by key; None where nobody knows


class Ledger:
    """Every attempt at a cell: a line with its key, number, exit code and seconds."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, event: Attempted) -> None:
        line = {"key": event.work.key, "attempt": event.attempt, "code": event.code, "seconds": round(event.seconds, 1)}
        with writing(self.path), self.path.open("a") as f:
            f.write(json.dumps(line) + "\n")

    def seconds(self) -> dict[str, float]:
        """What each cell has taken until now, all its attempts together."""
        sums: dict[str, float] = {}
        try:
            for line in read_bytes(self.path).splitlines() if self.path.exists() else ():
                row = json.loads(line)
                sums[row["key"]] = sums.get(row["key"], 0.0) + float(row["seconds"])
        except (ValueError, KeyError, TypeError) as e:
            raise BadInput(f"{self.path} is damaged; remove it, only times are lost") from e
        return sums


def expected_seconds(jobs: Sequence[CellJob], ledger: Ledger) -> Expected:
    """How long each cell takes: as long as it did, as another of its kind did, or by a second of updates."""
    taken = ledger.seconds()
    known = {job.key: taken[job.key] for job in jobs if job.key in taken and (job.folder / "summary.json").exists()}
    kinds: dict[str, list[float]] = {}
    for job in jobs:
        if job.key in known:
            kinds.setdefault(_kind(job), []).append(known[job.key])
    guesses: dict[str, float | None] = {kind: float(np.mean(seconds)) for kind, seconds in kinds.items()}
    for job in jobs:
        if _kind(job) not in guesses and not (job.folder / "summary.json").exists():
            guesses[_kind(job)] = _measured(job)
    return {job.key: known.get(job.key, guesses.get(_kind(job))) for job in jobs}


def _kind(job: CellJob) -> str:
    """What decides how long a cell takes, seeds and data of the same number apart."""
    options = job.cell.options
    return repr((options.env, options.method, options.seeds, options.device, options.precision, job.cell.cfg))


def _measured(job: CellJob) -> float | None:
    options = job.cell.options
    if options.device != "cpu" and not torch.cuda.is_available():  # it is another machine that has one
        return None
    return estimate_seconds(run_spec_of(options, job.cell.cfg), spec_of(options.env), 1)


def title_of(job: CellJob) -> str:
    """A cell in a few words."""
    dials = "".join(f", {name.rpartition('.')[2]} {as_word(value)}" for name, value in job.cell.dials.items())
    return f"{job.cell.name} on {job.cell.options.env}{dials}"


def plan(jobs: Sequence[CellJob], expected: Expected, workers: int) -> None:
    """Prints the cells, which of them are done, and how long the rest will take."""
    console, left = Console(highlight=False, markup=False), {}
    console.width = console.width if console.is_terminal else 132
    table = Table("cell", "key", "seeds", "state", "takes about", box=box.SIMPLE_HEAD)
    for job in jobs:
        done, begun = ((job.folder / name).exists() for name in ("summary.json", "config.json"))
        state, seconds = "finished" if done else "begun" if begun else "to do", expected[job.key]
        if not done:
            left[job.key] = seconds
        told = duration(seconds) if seconds is not None else "?"
        table.add_row(title_of(job), job.key, str(job.cell.options.seeds), state, told)
    console.print(table)
    known = [seconds for seconds in left.values() if seconds is not None]
    unknown = f", and {len(left) - len(known)} whose time nobody knows" if len(known) < len(left) else ""
    told = f"{len(expected)} cells, {len(expected) - len(left)} finished; of the rest {len(known)} take about"
    took = f"{duration(sum(known))} of one core, {duration(sum(known) / workers)} with {workers} at a time{unknown}"
    console.print(f"{told} {took}", soft_wrap=True)


class GridDisplay:
    """Prints the progress over a grid. As a context, it shows live bars; where there is no terminal, a line a cell."""

    def __init__(self, titles: dict[str, str], expected: Expected, shares: dict[str, float]):
        known = [seconds for seconds in expected.values() if seconds]
        usual = float(np.median(known)) if known else 1.0
        self.titles, self.console = titles, Console(highlight=False, markup=False)
        self.weights = {key: expected.get(key) or usual for key in titles}
        self.shares, self.finished = dict(shares), {key for key, share in shares.items() if share == 1}
        name, line = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[line]}"))
        self.progress = Progress(name, BarColumn(bar_width=24), line, console=self.console, transient=True)
        self.bar = self.progress.add_task("grid", total=sum(self.weights.values()), line="")
        self.bars: dict[str, Any] = {}
        self.began, self.before = time.monotonic(), self._done()

    def __enter__(self) -> GridDisplay:
        if self.finished:
            self._say(f"{len(self.finished)} of {len(self.titles)} cells are finished already")
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        key = event.work.key
        if isinstance(event, Started):
            again = f"attempt {event.attempt}" if event.attempt > 1 else ""
            self.bars[key] = self.progress.add_task(f"  {self.titles[key]}", total=1.0, line=again)
        if isinstance(event, Advanced):
            self.shares[key] = event.share
            self.progress.update(self.bars[key], completed=event.share)
        if isinstance(event, Attempted):
            self.progress.remove_task(self.bars.pop(key))
            self._ended(event)
        self.progress.update(self.bar, completed=self._done(), line=self._line())

    def _ended(self, event: Attempted) -> None:
        key, took = event.work.key, f"{duration(event.seconds)}, attempt {event.attempt}"
        if event.code == 0:
            self.finished.add(key)
            self.shares[key] = 1.0
            self._say(f"{self._line()}: finished {self.titles[key]} ({took})")
        elif event.code != 143:
            self.shares[key] = 1.0 if event.final else self.shares[key]  # of what is given up nothing is left to do
            what = "gave up" if event.final else "will try again"
            ended = f"{self.titles[key]} ended with {event.code} ({took}): {event.message}"
            self._say(f"{self._line()}: {what}: {ended}")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _done(self) -> float:
        return sum(self.weights[key] * share for key, share in self.shares.items())

    def _line(self) -> str:
        gone, left = self._done() - self.before, sum(self.weights.values()) - self._done()
        pace = (time.monotonic() - self.began) / gone if gone > 0 else 0.0
        time_left = f", about {duration(pace * left)} left" if pace and left > 0 else ""
        return f"{len(self.finished)} of {len(self.titles)} cells{time_left}"
