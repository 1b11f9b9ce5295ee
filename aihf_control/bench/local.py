"""Runs pieces of work as processes of this machine: one thread and one core each, what dies is tried again.

What happens comes out as a stream of events; nothing here prints.
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

from aihf_control.bench import child as leash
from aihf_control.core.files import read_bytes, writing
from aihf_control.training.run_folder import is_running

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
BAD_INPUT = 2  # the exit code of what no retry can mend
LOOK_EVERY = 0.1  # seconds from one look at the processes to the next
TELL_EVERY = 1.0  # seconds from one look at their logs to the next


@dataclasses.dataclass(frozen=True)
class Job:
    """Something that a process is to do, and how one sees that it is done."""

    key: str
    folder: Path
    """What it leaves behind."""
    fresh: tuple[str, ...]
    """Python's words to do it from the start, `-m module ...`."""
    resume: tuple[str, ...] = ()
    """And to go on where an earlier attempt was, if the folder has a config.json."""
    done: str = "summary.json"
    """The file of the folder that is written last."""
    output: Path = Path(os.devnull)
    """Where the process's own words go."""
    steps: int = 0
    """How many steps its log counts to."""
    needs: tuple[Path, ...] = ()
    """Folders that it reads."""

    def finished(self) -> bool:
        return (self.folder / self.done).exists()

    def words(self) -> tuple[str, ...]:
        return self.resume if self.resume and (self.folder / "config.json").exists() else self.fresh

    def share(self) -> float:
        """The part of its steps that is done, as far as the log shows."""
        if self.finished():
            return 1.0
        try:
            data = (self.folder / "log.jsonl").read_bytes()
        except FileNotFoundError:  # not begun, or just about to tell it all again
            return 0.0
        whole = data.rpartition(b"\n")[0]  # the last line may be half written
        return json.loads(whole.rpartition(b"\n")[2])["step"] / self.steps if whole else 0.0


@dataclasses.dataclass(frozen=True)
class Started:
    """An attempt at a piece of work begins; the first is 1."""

    work: Job
    attempt: int


@dataclasses.dataclass(frozen=True)
class Advanced:
    """A running piece of work has come further; `share` of its steps is done."""

    work: Job
    share: float


@dataclasses.dataclass(frozen=True)
class Attempted:
    """An attempt has ended: well (code 0), to be tried again, or for good."""

    work: Job
    attempt: int
    code: int
    seconds: float
    message: str
    """The last line that it said, where it did not end well."""
    final: bool
    """Whether there will be no other."""


Event = Started | Advanced | Attempted


class _Slot:
    """A process at work."""

    def __init__(self, work: Job, attempt: int, cores: Sequence[int]):
        self.work, self.attempt, self.cores, self.share, self.asked = work, attempt, cores, 0.0, False
        with writing(work.output):
            work.output.parent.mkdir(parents=True, exist_ok=True)
            with work.output.open("ab") as out:
                self.process = subprocess.Popen(
                    leash.command(cores, [sys.executable, *work.words()]),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | ONE_THREAD,
                    start_new_session=True,  # the terminal's Ctrl-C is for the bench alone
                )
        self.began = time.monotonic()

    def request_stop(self) -> None:
        if not self.asked:
            self.process.send_signal(signal.SIGTERM)
            self.asked = True

    def kill(self) -> None:
        """Ends the process and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self, retries: int, stopping: bool) -> Attempted:
        """Of a process that has ended."""
        code, seconds = self.process.returncode, time.monotonic() - self.began
        if code == 0 and not self.work.finished():
            code = 1
        final = code in (0, BAD_INPUT) or stopping or self.attempt > retries
        message = "" if code == 0 else _last_line(self.work.output) or f"ended with code {code}"
        return Attempted(self.work, self.attempt, code, seconds, message, final)


def run_here(
    works: Sequence[Job], slots: Sequence[Sequence[int]], retries: int, stop: Any, wait: float = 1.0
) -> Iterator[Event]:
    """Does all the works, as many at a time as there are slots, each a choice of cores; an empty one is any.

    What dies is tried again up to `retries` times, after `wait` seconds, then twice that, and so on. Once
    `stop.is_set()` what runs is asked to leave off, and nothing new begins.
    """
    waiting = [(0.0, 1, work) for work in works]  # not before, attempt, work
    free, running, told = list(slots), [], time.monotonic()
    try:
        while running or (waiting and not stop.is_set()):
            while (ready := _ready(waiting)) is not None and free and not stop.is_set():
                _, attempt, work = waiting.pop(ready)
                running.append(_Slot(work, attempt, free.pop(0)))
                yield Started(work, attempt)
            time.sleep(LOOK_EVERY)
            for slot in [s for s in running if s.process.poll() is not None]:
                slot.kill()  # a process that died may have left children at work
                running.remove(slot)
                free.append(slot.cores)
                outcome = slot.outcome(retries, stop.is_set())
                if not outcome.final:
                    later = time.monotonic() + wait * 2 ** (slot.attempt - 1)
                    waiting.append((later, slot.attempt + 1, slot.work))
                yield outcome
            if stop.is_set():
                for slot in running:
                    slot.request_stop()
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                yield from _advances(running)
    finally:
        for slot in running:
            slot.kill()


def _ready(waiting: list[tuple[float, int, Job]]) -> int | None:
    """The first piece of work whose time has come and whose folder no earlier process still holds."""
    now = time.monotonic()
    return next((i for i, (when, _, work) in enumerate(waiting) if when <= now and not is_running(work.folder)), None)


def _advances(running: list[_Slot]) -> Iterator[Advanced]:
    for slot in running:
        share = slot.work.share()
        if share > slot.share:
            slot.share = share
            yield Advanced(slot.work, share)


def _last_line(path: Path) -> str:
    lines = read_bytes(path).decode(errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
