"""A bench session: runs the cells of some grids that are not finished, and reports them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aihf_control.bench.display import Expected, GridDisplay, Ledger, expected_seconds, print_plans, title_of
from aihf_control.bench.experiment import Experiment, read
from aihf_control.bench.fingerprint import code_of
from aihf_control.bench.grid import (
    CellJob,
    command_lines,
    copy_data,
    data_jobs_from,
    finished_keys,
    jobs_from,
    jobs_of,
    select,
)
from aihf_control.bench.local import BAD_INPUT, Attempted, Event, Job, Started, run_here
from aihf_control.bench.options import Options
from aihf_control.core.errors import BadInput, above_zero
from aihf_control.core.files import check_writable, lock, read_bytes, write_json
from aihf_control.core.signals import signal_handlers
from aihf_control.environments.modules import allow_module, check_module
from aihf_control.report.runs import report_folder


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid of an experiment file, with the cells of it that are to run."""

    path: Path
    """The experiment file."""
    experiment: Experiment
    folder: Path
    """Folder of its results."""
    cells: list[CellJob]
    selected: list[CellJob]
    """The cells that --only selects."""
    expected: Expected


def run_grids(options: Options) -> int:
    """Run the grids of some files one after the other, each from its data to its report. Return the exit code.

    All files are checked and all data is made before the first cell runs. Grids share datasets; each has its own folder
    of results, by `experiment.name_of`. Raises BadInput.
    """
    _check(options)
    allow_module(*options.env)
    guesses: Expected = {}
    grids = [_open(path, options, guesses) for path in options.experiments]
    if len({grid.folder for grid in grids}) < len(grids):
        raise BadInput(
            f"two of {_listed(options)} have the same name, and so the same folder of results; leave one out"
        )
    jobs = [job for grid in grids for job in grid.selected]
    if options.list:
        print("\n".join(dict.fromkeys(command_lines(jobs))))
        return 0
    if options.dry_run:
        print_plans([(grid.experiment.name, grid.selected, grid.expected) for grid in grids], _workers(options, jobs))
        return 0
    for grid in grids:
        check_writable(grid.folder)
    with _stop_signals() as stop:
        make_data(jobs, stop)
        failed = [event for grid in grids if not stop.is_set() for event in _run_grid(options, grid, stop)]
    if stop.is_set():
        print(f"paused; resume with the same command: python -m aihf_control.bench {_listed(options)}")
        return 128 + stop.number
    if not failed:
        return 0
    return BAD_INPUT if all(event.code == BAD_INPUT for event in failed) else 1


def _open(path: Path, options: Options, guesses: Expected) -> Grid:
    """Read an experiment file and find its cells and their expected times, or `guesses` of them. Raises BadInput."""
    experiment = read(path)
    for cell in experiment.cells:
        check_module(cell.options.env)
    folder = options.out / experiment.name
    cells = jobs_of(experiment, folder, options.any_code)
    selected = select(cells, options.only)
    ledger = Ledger(folder / "attempts.jsonl")
    if options.dry_run and len(options.experiments) > 1:
        print(f"timing the cells of {experiment.name}", file=sys.stderr, flush=True)
    expected = {} if options.list else expected_seconds(selected, ledger, options.dry_run, guesses)
    return Grid(path, experiment, folder, cells, selected, expected)


def _run_grid(options: Options, grid: Grid, stop: StopEvent) -> list[Attempted]:
    """Run the cells of a grid that are not finished, and report it. Return those that failed."""
    if len(options.experiments) > 1:
        print(f"{grid.experiment.name}: {grid.experiment.title}", flush=True)
    _print_other_code(grid.selected, grid.folder)
    with lock_folder(grid.folder):
        _write_description(grid)
        failed = _run(options, grid, stop)
    if not stop.is_set() and any(job.finished() for job in jobs_from(grid.cells, grid.folder)):
        report_folder(grid.folder)
    return failed


def _listed(options: Options) -> str:
    return shlex.join(map(str, options.experiments))


def _print_other_code(jobs: Sequence[CellJob], folder: Path) -> None:
    """Print how many cells other code of the package has finished, and what becomes of them."""
    finished = finished_keys(folder)
    rerun = sum(job.key not in keys for job in jobs if (keys := finished.get(job.key.partition("-")[0])))
    if rerun:
        print(f"{rerun} cells were finished by other code and are run again; --any-code uses them as they are")
    used = sum(job.by_other_code for job in jobs)
    if used:
        print(f"{used} cells were finished by other code and are used as they are (--any-code)")


def _check(options: Options) -> None:
    """Raise BadInput for flags that are out of range or do not fit together."""
    if not options.experiments:
        raise BadInput("nothing to run: give an experiment file, such as experiments/smoke.toml")
    for flag, n in (("--workers", options.workers), ("--retries", options.retries), ("--gpu", options.gpu)):
        if n < 0:
            raise BadInput(f"{flag} must be at least 0, got {n}")
    if options.engine == "ray" and options.out.is_absolute():
        raise BadInput(
            f"--out must be a relative folder with --engine ray, got {options.out}: every machine uses the same one"
        )
    if options.engine == "local" and (options.address or options.gpu or options.cores != 1):
        raise BadInput("--address, --cores and --gpu need --engine ray")
    above_zero("--cores", options.cores)


# ------------------------------------------------------------------------------------------------------------- running


class StopEvent(threading.Event):
    """Set when a signal asked the bench to stop; `number` is the signal."""

    number = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[StopEvent]:
    """Yield an event that Ctrl-C and SIGTERM set; a second signal aborts."""
    stop = StopEvent()

    def pause(number: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.number = number
        stop.set()
        print("\npausing: cells write their checkpoints; Ctrl-C again aborts", file=sys.stderr)

    with signal_handlers({which: functools.partial(pause, which) for which in (signal.SIGINT, signal.SIGTERM)}):
        yield stop


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a grid's folder. Raises BadInput if another bench uses it."""
    with lock(folder / "lock", f"another bench is running in {folder}; wait for it, or give another --out"):
        yield


def make_data(jobs: Sequence[CellJob], stop: StopEvent) -> None:
    """Make the datasets that do not exist yet. Raises BadInput if one cannot be made."""
    copy_data(jobs)
    with tempfile.TemporaryDirectory() as output:
        for event in run_here(data_jobs_from(jobs, Path(output)), _slots(_default_workers(())), 1, stop):
            if isinstance(event, Started):
                print(f"making the data {event.job.folder}", flush=True)
            if isinstance(event, Attempted) and event.final and event.code and not stop.is_set():
                raise BadInput(f"cannot make the data {event.job.folder}: {event.message.removeprefix('error: ')}")


def _run(options: Options, grid: Grid, stop: StopEvent) -> list[Attempted]:
    """Run the cells that are not finished. Return those that failed; they do not stop the others."""
    cells, folder = grid.selected, grid.folder
    jobs, failed, ledger = jobs_from(cells, folder), [], Ledger(folder / "attempts.jsonl")
    titles, shares = {cell.key: title_of(cell) for cell in cells}, {job.key: job.share() for job in jobs}
    unfinished = [job for job in jobs if not job.finished()]
    with GridDisplay(titles, grid.expected, shares) as display:
        for event in _engine(options, cells)(unfinished, stop) if unfinished else ():
            display.show(event)
            if isinstance(event, Attempted):
                ledger.add(event)
                if event.final and event.code and not stop.is_set():
                    failed.append(event)
    for event in failed:
        what = f"{titles[event.job.key]}: {event.message.removeprefix('error: ')}"
        print(f"failed: {what} (full output: {event.job.output})", file=sys.stderr)
    return failed


def _engine(options: Options, cells: Sequence[CellJob]) -> Callable[[Sequence[Job], StopEvent], Iterator[Event]]:
    """Return the function that runs jobs on this machine or on a Ray cluster."""
    if options.engine == "local":
        slots = _slots(_workers(options, cells))
        return lambda jobs, stop: run_here(jobs, slots, options.retries, stop)
    from aihf_control.bench.ray import Cluster, run_on_ray

    cluster = Cluster(options.address, options.workers, options.cores, options.gpu)
    return lambda jobs, stop: run_on_ray(jobs, cluster, options.retries, stop)


def _workers(options: Options, cells: Sequence[CellJob]) -> int:
    return options.workers or _default_workers(cells)


def _default_workers(cells: Sequence[CellJob]) -> int:
    """Return the number of cells that run at the same time by default: one per core, or one on an accelerator."""
    return 1 if any(cell.cell.options.device != "cpu" for cell in cells) else len(os.sched_getaffinity(0))


def _slots(n: int) -> list[tuple[int, ...]]:
    """Return the core that each of n processes is pinned to; none is pinned if there are more processes than cores."""
    cores = sorted(os.sched_getaffinity(0))
    return [(core,) for core in cores[:n]] if n <= len(cores) else [()] * n


def _write_description(grid: Grid) -> None:
    """Write grid.json: the settings that the report needs, and the experiment file."""
    cells = [
        {"key": job.key, "env": job.cell.options.env, "name": job.cell.name, "method": job.cell.options.method}
        | {"seeds": job.cell.options.seeds, "dials": job.cell.swept, "code": code_of(job.cell.options.method)}
        for job in grid.cells
    ]
    experiment, text = grid.experiment, read_bytes(grid.path).decode()
    about = {"name": experiment.name, "title": experiment.title, "about": experiment.about}
    claims = [dataclasses.asdict(claim) for claim in experiment.claims]
    about |= {"report": dataclasses.asdict(experiment.report), "claims": claims}
    write_json(grid.folder / "grid.json", {**about, "cells": cells, "file": text})
