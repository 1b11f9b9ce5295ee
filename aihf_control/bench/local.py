"""Local engine: runs jobs as processes of this machine, one thread and one core each, with retries.

Progress is returned as a stream of events; nothing here prints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aihf_control.bench.child import child_command
from aihf_control.core.files import read_bytes, writing
from aihf_control.training.run_folder import is_running

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
BAD_INPUT = 2  # exit code for which a retry is useless
POLL_EVERY = 0.1  # seconds between checks of the processes
REPORT_EVERY = 1.0  # seconds between checks of their logs
TAIL = 1 << 16  # bytes at the end of a log that hold its last lines


@dataclasses.dataclass(frozen=True)
class Job:
    """A command to run as a process, and the file that shows that it has finished."""

    key: str
    folder: Path
    """Folder that it writes."""
    fresh: tuple[str, ...]
    """Python's arguments to start from the beginning, `-m module ...`."""
    resume: tuple[str, ...] = ()
    """Python's arguments to resume an earlier attempt, used if the folder has a config.json."""
    done: str = "summary.json"
    """File of the folder that is written last."""
    output: Path = Path(os.devnull)
    """File for the process's output."""
    steps: int = 0
    """Number of steps that its log counts to."""
    needs: tuple[Path, ...] = ()
    """Folders that it reads."""

    def finished(self) -> bool:
        return (self.folder / self.done).exists()

    def words(self) -> tuple[str, ...]:
        """Return Python's arguments for the next attempt."""
        return self.resume if self.resume and (self.folder / "config.json").exists() else self.fresh

    def share(self) -> float:
        """Return the share of its steps that its log shows as done; damaged lines count as none."""
        if self.finished():
            return 1.0
        steps = (_step_of(line) for line in reversed(_last_lines(self.folder / "log.jsonl")))
        step = next((step for step in steps if step is not None), 0)
        return min(1.0, step / self.steps) if self.steps else 0.0


def _last_lines(path: Path) -> list[bytes]:
    """Return the last complete lines of a file that may grow or vanish at any time; none if it cannot be read."""
    try:
        if not path.is_file():
            return []
        with path.open("rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - TAIL))
            return f.read().split(b"\n")[:-1]  # the last part is empty, or a line that is half written
    except OSError:
        return []


def _step_of(line: bytes) -> int | None:
    """Return the step of a line of a log; None if the line is damaged."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return step if type(step) is int and step >= 0 else None


@dataclasses.dataclass(frozen=True)
class Started:
    """The start of an attempt at a job; the first attempt is 1."""

    job: Job
    attempt: int


@dataclasses.dataclass(frozen=True)
class Advanced:
    """Progress of a running job: `share` of its steps is done."""

    job: Job
    share: float


@dataclasses.dataclass(frozen=True)
class Attempted:
    """The end of an attempt: finished (code 0), to be retried, or failed."""

    job: Job
    attempt: int
    code: int
    seconds: float
    message: str
    """The last line of its output, unless it finished."""
    final: bool
    """Whether no other attempt follows."""


Event = Started | Advanced | Attempted


class _Process:
    """A running process of a job."""

    def __init__(self, job: Job, attempt: int, cores: Sequence[int]):
        self.job, self.attempt, self.cores, self.share, self.stopping = job, attempt, cores, 0.0, False
        with writing(job.output):
            job.output.parent.mkdir(parents=True, exist_ok=True)
            with job.output.open("ab") as out:
                self.process = subprocess.Popen(
                    child_command(cores, [sys.executable, *job.words()]),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | ONE_THREAD,
                    start_new_session=True,  # the terminal's Ctrl-C is for the bench alone
                )
        self.began = time.monotonic()

    def request_stop(self) -> None:
        """Send a SIGTERM, once."""
        if not self.stopping:
            self.process.send_signal(signal.SIGTERM)
            self.stopping = True

    def kill(self) -> None:
        """Kill the process and its children."""
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self, retries: int, stopping: bool) -> Attempted:
        """Return the outcome of the process, which has ended."""
        code, seconds = self.process.returncode, time.monotonic() - self.began
        if code == 0 and not self.job.finished():
            code = 1
        final = code in (0, BAD_INPUT) or stopping or self.attempt > retries
        message = "" if code == 0 else _last_line(self.job.output) or f"ended with code {code}"
        return Attempted(self.job, self.attempt, code, seconds, message, final)


def run_here(
    jobs: Sequence[Job], slots: Sequence[Sequence[int]], retries: int, stop: Any, wait: float = 1.0
) -> Iterator[Event]:
    """Run all jobs, as many at a time as there are slots. A slot is a list of cores; an empty one is any core.

    A job that dies is retried up to `retries` times, after `wait` seconds, then twice that, and so on. Once
    `stop.is_set()`, running jobs are asked to stop and no other is started.
    """
    waiting = [(0.0, 1, job) for job in jobs]  # earliest start, attempt, job
    free, running, reported = list(slots), [], time.monotonic()
    try:
        while running or (waiting and not stop.is_set()):
            while (ready := _find_ready(waiting)) is not None and free and not stop.is_set():
                _, attempt, job = waiting.pop(ready)
                running.append(_Process(job, attempt, free.pop(0)))
                yield Started(job, attempt)
            time.sleep(POLL_EVERY)
            for process in [p for p in running if p.process.poll() is not None]:
                process.kill()  # a process that died may have left children running
                running.remove(process)
                free.append(process.cores)
                outcome = process.outcome(retries, stop.is_set())
                if not outcome.final:
                    later = time.monotonic() + wait * 2 ** (process.attempt - 1)
                    waiting.append((later, process.attempt + 1, process.job))
                yield outcome
            if stop.is_set():
                for process in running:
                    process.request_stop()
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                yield from _find_advances(running)
    finally:
        for process in running:
            process.kill()


def _find_ready(waiting: list[tuple[float, int, Job]]) -> int | None:
    """Return the index of the first job that may start now and whose folder no other process has locked."""
    now = time.monotonic()
    return next((i for i, (when, _, job) in enumerate(waiting) if when <= now and not is_running(job.folder)), None)


def _find_advances(running: list[_Process]) -> Iterator[Advanced]:
    for process in running:
        share = process.job.share()
        if share > process.share:
            process.share = share
            yield Advanced(process.job, share)


def _last_line(path: Path) -> str:
    """Return the last line of a file that is not blank."""
    lines = read_bytes(path).decode(errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
