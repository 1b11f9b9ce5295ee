"""Time limit for single calls of an environment.

`Envs` marks the start and the end of every call into an environment's code on a clock of the process. A hanging call is
noticed from outside: by the parent process, which shares the clock, or by a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import tyro

from aihf_control.core.errors import BadInput

TIMEOUT_CODE = 124  # exit code, as of timeout(1)
DEFAULT_TIMEOUT = 300.0  # seconds
StepTimeout = Annotated[
    float,
    tyro.conf.arg(
        help="Seconds after which the command ends if the environment does not return from one call; 0 is no limit."
    ),
]


class EnvTimeout(Exception):
    """A call into an environment took longer than the limit. The message is one line."""


_clock: Any = ctypes.c_double(0.0)  # when the running call began (time.monotonic), 0 outside of calls


def share_clock(clock: Any) -> None:
    """Use another clock from now on: an object with a float `value`, for example shared memory of a parent process."""
    global _clock
    _clock = clock


def check_limit(limit: float) -> None:
    """Raise BadInput for a limit that is not at least 0 seconds."""
    if not limit >= 0:
        raise BadInput(f"--step-timeout must be at least 0 seconds, got {limit}")


def start_call() -> None:
    _clock.value = time.monotonic()


def end_call() -> None:
    _clock.value = 0.0


@contextlib.contextmanager
def calling() -> Iterator[None]:
    """Mark what is inside as one call."""
    start_call()
    try:
        yield
    finally:
        end_call()


def overdue(clock: Any, limit: float) -> bool:
    """Return whether a call has been running for more than `limit` seconds; 0 means no limit."""
    began = clock.value
    return bool(limit and began and time.monotonic() - began > limit)


def timeout_message(env_id: str, limit: float) -> str:
    """Return the one line for a call that exceeded the limit."""
    return (
        f"{env_id} did not return from one call of make, reset or step within {limit:g} s; correct the environment, or "
        "give a longer --step-timeout (0: no limit)"
    )


def _exit(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(TIMEOUT_CODE)  # the main thread cannot be interrupted: it is in the call that hangs


@contextlib.contextmanager
def watch(env_id: str, limit: float, report: Callable[[str], None] = _exit) -> Iterator[None]:
    """End the process with one line and exit code 124 if a call hangs while the context is open.

    A thread watches, so a call that never releases the interpreter lock is not noticed; `run` watches from its parent
    process, which notices that too. Raises BadInput for a negative limit.
    """
    check_limit(limit)
    done = threading.Event()

    def look() -> None:
        while not done.wait(min(1.0, limit / 4)):
            if overdue(_clock, limit):
                report(timeout_message(env_id, limit))
                return

    thread = threading.Thread(target=look, daemon=True, name="environment watchdog")
    if limit:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if limit:
            thread.join()
