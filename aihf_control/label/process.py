"""The background process, as the page starts it. Nothing slow is imported here, so that both start fast."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing as mp
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from aihf_control.core.errors import BadInput
from aihf_control.environments import watchdog
from aihf_control.environments.modules import allowed_modules
from aihf_control.label.plan import Plan
from aihf_control.label.store import Store

CLIPS = "clips"  # subfolder of the mp4 files
READY = "ready"  # message: the first questions are chosen, and their clips can be drawn


class Work(Protocol):
    """The source of questions and clips. It is sent to the background process and opened there."""

    def open(self, store: Store) -> tuple[Any, bool, Any]:
        """Return the environment's `EnvSpec`, whether it has to be drawn, and a `SegmentSource`. Raises BadInput."""
        ...


@dataclasses.dataclass(frozen=True)
class DatasetWork:
    """Questions about the segments of a dataset."""

    dataset: Path
    plan: Plan
    frames: Path | None = None

    def open(self, store: Store) -> tuple[Any, bool, Any]:
        from aihf_control.label.choosing import open_dataset

        return open_dataset(store, self.dataset, self.plan, self.frames)


def _start(*args: Any) -> None:
    from aihf_control.label.background import run_background

    run_background(*args)


class Background:
    """The running background process."""

    def __init__(self, folder: Path, work: Work):
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.clock = context.Value("d", 0.0, lock=False)
        args = (folder, work, theirs, allowed_modules(), self.clock)
        self.process = context.Process(target=_start, args=args, daemon=True)
        self.process.start()
        theirs.close()

    def wait_until_ready(self, step_timeout: float) -> None:
        """Return when questions are chosen. Raises BadInput if there cannot be any, and EnvTimeout."""
        while not self.connection.poll(0.2):
            self.check(step_timeout)
        try:
            message = self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"the rendering process died (exit code {self.process.exitcode})") from None
        if message != READY:
            raise BadInput(message)

    def check(self, step_timeout: float) -> None:
        """Raise RuntimeError or BadInput if the process has ended, EnvTimeout if the environment hangs in it."""
        if watchdog.overdue(self.clock, step_timeout):
            raise watchdog.EnvTimeout(watchdog.timeout_message("the environment", step_timeout))
        if not self.process.is_alive():
            if self.connection.poll() and isinstance(message := self.connection.recv(), str) and message != READY:
                raise BadInput(message)
            raise RuntimeError(f"the rendering process died (exit code {self.process.exitcode})")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def running(folder: Path, work: Work) -> Iterator[Background]:
    """Run the background process during the block."""
    background = Background(folder, work)
    try:
        yield background
    finally:
        background.close()
