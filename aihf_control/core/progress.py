"""Reports of how far a long computation is, from the loop that counts to whoever shows it.

    with listening(print):
        for i in counted(5000, "cloning"):
            ...

Loops need not know who listens, and nothing happens if nobody does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str, int, int], object]
"""A function of a phase's name, the number of its units that are done, and the number of all."""

EVERY = 0.25  # seconds between two reports of a phase

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_name: ContextVar[str] = ContextVar("name", default="")


@contextlib.contextmanager
def listening(listener: Listener, every: float = EVERY) -> Iterator[None]:
    """Call `listener` for the reports inside the context: for the first of a phase, then each `every` seconds."""
    token = _listener.set(_Throttle(listener, every))
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Give the phases inside the context this name, unless an outer context has named them."""
    token = _name.set(_name.get() or name)
    try:
        yield
    finally:
        _name.reset(token)


def report(name: str, done: int, total: int) -> None:
    """Report that `done` of `total` units of a phase are done."""
    if listener := _listener.get():
        listener(_name.get() or name, done, total)


def counted(total: int, name: str) -> Iterator[int]:
    """Count 0, 1, ..., total - 1 and report each as a unit of a phase."""
    for i in range(total):
        report(name, i, total)
        yield i
    report(name, total, total)


class _Throttle:
    """A listener that passes on the first report of a phase and its end, and others at intervals."""

    def __init__(self, listener: Listener, every: float):
        self.listener, self.every = listener, every
        self.name, self.last = "", 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name == self.name and done < total and now - self.last < self.every:
            return
        self.name, self.last = name, now
        self.listener(name, done, total)
