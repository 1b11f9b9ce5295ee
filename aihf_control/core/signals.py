"""Signal handlers for the time of a `with` block."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def signal_handlers(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Install a handler for each signal and restore the previous ones afterwards. Only in the main thread."""
    before = {which: signal.signal(which, lambda *_, call=call: call()) for which, call in handlers.items()}
    try:
        yield
    finally:
        for which, old in before.items():
            signal.signal(which, old)
