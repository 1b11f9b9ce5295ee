"""Runs a grid of methods, environments and data from one file, and reports it.

python -m aihf_control.bench experiments/smoke.toml
python -m aihf_control.bench experiments/main.toml --only env=Hopper-v4 method=aihf --workers 4
python -m aihf_control.bench experiments/main.toml --list          # the exact commands, one a line
python -m aihf_control.bench experiments/main.toml --dry-run       # the cells, and how long they will take
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from aihf_control.bench.display import Expected, GridDisplay, Ledger, expected_seconds, plan, title_of
from aihf_control.bench.experiment import Experiment, read
from aihf_control.bench.grid import (
    CellJob,
    by_other_code,
    chosen,
    command_lines,
    copy_data,
    data_jobs_from,
    jobs_from,
    jobs_of,
)
from aihf_control.bench.local import BAD_INPUT, Attempted, Event, Job, Started, run_here
from aihf_control.core.errors import BadInput
from aihf_control.core.files import check_writable, lock, read_bytes, write_json
from aihf_control.environments.modules import allow_module, check_module
from aihf_control.report.runs import report_folder

BENCH = Path("results/bench")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is run, and where."""

    experiment: Annotated[Path, tyro.conf.Positional]
    """A file of experiments/."""
    list: bool = False
    """Only prints the commands that the grid consists of."""
    dry_run: bool = False
    """Only prints the cells and how long they will take."""
    only: tuple[str, ...] = ()
    """NAME=VALUE: only cells of this env, method, demos, pairs, dial or key; several values of a name add up."""
    env: tuple[str, ...] = ()
    """Environments of the experiment whose ids have a module part: confirms that these modules may be imported."""
    workers: int = 0
    """Cells at a time; 0 is one a core, on an accelerator one."""
    retries: int = 3
    """How often a cell that died is tried again; it goes on from its last checkpoint."""
    engine: Literal["local", "ray"] = "local"
    """Where: on this machine, or on a Ray cluster (needs `pip install 'aihf_control[ray]'`)."""
    address: str | None = None
    """Of the Ray cluster, HOST:PORT; without it RAY_ADDRESS, or else a cluster of this machine alone."""
    cores: float = 1.0
    """Cores that a cell asks of Ray."""
    gpu: float = 0.0
    """Share of a GPU that a cell asks of Ray."""
    any_code: bool = False
    """Takes finished cells of the same settings for done even where other code of the package made them."""
    out: Path = BENCH
    """Folder for grids; each gets one of the file's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 1 where cells failed, 2 for bad input, 130 and 143 where it was ended."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.bench", description=about)
    try:
        return bench(options)
    except BadInput as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the list has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("broken off; what was running goes on from its last checkpoint", file=sys.stderr)
        return 130


def bench(options: Options) -> int:
    """The grid from its file to its page. Returns the exit code. Raises BadInput."""
    _check(options)
    allow_module(*options.env)
    experiment = read(options.experiment)
    for cell in experiment.cells:
        check_module(cell.options.env)
    folder = options.out / experiment.name
    grid = jobs_of(experiment, folder, options.any_code)
    jobs = chosen(grid, options.only)
    if options.list:
        print("\n".join(command_lines(jobs)))
        return 0
    expected = expected_seconds(jobs, Ledger(folder / "attempts.jsonl"))
    if options.dry_run:
        plan(jobs, expected, options.workers or _cores(jobs))
        return 0
    check_writable(folder)
    others = [job.key for job in jobs if by_other_code(folder, job.key)]
    if others:
        print(f"{len(others)} cells were finished by other code and are run anew; --any-code takes them as they are")
    with _signals() as ended:
        make_data(jobs, ended)
        if not ended.is_set():
            with _alone(folder):
                _describe(folder, options.experiment, experiment, grid)
                failed = _run(options, jobs, folder, expected, ended)
    if ended.is_set():
        print(f"left off; go on with the same command: python -m aihf_control.bench {options.experiment}")
        return 128 + ended.number
    if any(work.finished() for work in jobs_from(grid, folder)):
        report_folder(folder)
    if not failed:
        return 0
    return BAD_INPUT if all(event.code == BAD_INPUT for event in failed) else 1


def _check(options: Options) -> None:
    for flag, n in (("--workers", options.workers), ("--retries", options.retries), ("--gpu", options.gpu)):
        if n < 0:
            raise BadInput(f"{flag} {n}: give at least 0")
    if options.engine == "ray" and options.out.is_absolute():
        raise BadInput(
            f"--out {options.out}: with --engine ray give a relative folder; cells run at the same one elsewhere"
        )
    if options.engine == "local" and (options.address or options.gpu or options.cores != 1):
        raise BadInput("--address, --cores and --gpu are for --engine ray")
    if options.cores <= 0:
        raise BadInput(f"--cores {options.cores}: give more than 0")


# ------------------------------------------------------------------------------------------------------------- running


class _Ended(threading.Event):
    """Set when the bench was asked to end, and by which signal."""

    number = 0


@contextlib.contextmanager
def _signals() -> Iterator[_Ended]:
    """While it lasts, Ctrl-C and SIGTERM ask the grid to leave off; a second one breaks off."""
    ended = _Ended()

    def end(number: int, _: Any) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.number = number
        ended.set()
        print("\nleaving off: cells write their checkpoints; Ctrl-C again to break off", file=sys.stderr)

    before = {which: signal.signal(which, end) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for which, old in before.items():
            signal.signal(which, old)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it lasts, no other bench works in the folder. Raises BadInput where one does."""
    with lock(folder / "lock", f"another bench is at work in {folder}; wait for it, or give another --out"):
        yield


def make_data(jobs: Sequence[CellJob], ended: _Ended) -> None:
    """Makes the datasets that are not there yet. Raises BadInput where one cannot be made."""
    copy_data(jobs)
    with tempfile.TemporaryDirectory() as words:
        for event in run_here(data_jobs_from(jobs, Path(words)), _slots(_cores(())), 1, ended):
            if isinstance(event, Started):
                print(f"making the data {event.work.folder}", flush=True)
            if isinstance(event, Attempted) and event.final and event.code and not ended.is_set():
                raise BadInput(f"cannot make the data {event.work.folder}: {event.message.removeprefix('error: ')}")


def _run(options: Options, jobs: list[CellJob], folder: Path, expected: Expected, ended: _Ended) -> list[Attempted]:
    """Runs what is not finished. Returns the cells that failed; the others do not mind."""
    works, failed, ledger = jobs_from(jobs, folder), [], Ledger(folder / "attempts.jsonl")
    titles, shares = {job.key: title_of(job) for job in jobs}, {work.key: work.share() for work in works}
    left = [work for work in works if not work.finished()]
    with GridDisplay(titles, expected, shares) as display:
        for event in _engine(options, jobs)(left, ended) if left else ():
            display.show(event)
            if isinstance(event, Attempted):
                ledger.add(event)
                if event.final and event.code and not ended.is_set():
                    failed.append(event)
    for event in failed:
        what = f"{titles[event.work.key]}: {event.message.removeprefix('error: ')}"
        print(f"failed: {what} (all it said: {event.work.output})", file=sys.stderr)
    return failed


def _engine(options: Options, jobs: Sequence[CellJob]) -> Callable[[Sequence[Job], _Ended], Iterator[Event]]:
    if options.engine == "local":
        slots = _slots(options.workers or _cores(jobs))
        return lambda works, ended: run_here(works, slots, options.retries, ended)
    from aihf_control.bench.ray import Cluster, run_on_ray

    cluster = Cluster(options.address, options.workers, options.cores, options.gpu)
    return lambda works, ended: run_on_ray(works, cluster, options.retries, ended)


def _cores(jobs: Sequence[CellJob]) -> int:
    """How many cells run at a time if nobody says: one a core, on an accelerator one."""
    return 1 if any(job.cell.options.device != "cpu" for job in jobs) else len(os.sched_getaffinity(0))


def _slots(n: int) -> list[tuple[int, ...]]:
    """Of each of n processes the core that it is pinned to; with more processes than cores none is."""
    cores = sorted(os.sched_getaffinity(0))
    return [(core,) for core in cores[:n]] if n <= len(cores) else [()] * n


def _describe(folder: Path, path: Path, experiment: Experiment, grid: Sequence[CellJob]) -> None:
    """Leaves in the folder what the grid is, for its report."""
    cells = [
        {"key": job.key, "env": job.cell.options.env, "name": job.cell.name, "method": job.cell.options.method}
        | {"seeds": job.cell.options.seeds, "dials": job.cell.dials}
        for job in grid
    ]
    about = {"name": experiment.name, "title": experiment.title, "about": experiment.about}
    text = read_bytes(path).decode()
    write_json(
        folder / "grid.json", {**about, "report": dataclasses.asdict(experiment.report), "cells": cells, "file": text}
    )


if __name__ == "__main__":
    sys.exit(main())
