"""The line in the terminal that shows how far a command is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from aihf_control.core.cli import make_console
from aihf_control.core.progress import listening
from aihf_control.core.text import duration

SETTLED = 1.0  # seconds of a phase after which its time left is shown


def make_bar(bar_width: int = 12) -> Progress:
    """Return a bar for the terminal, which is not drawn elsewhere. Its tasks have a field `line`."""
    whole = Column(overflow="fold")  # wrapped in a narrow terminal, never cut
    texts = "{task.description}", "{task.fields[line]}"
    name, line = (TextColumn(text, markup=False, table_column=whole.copy()) for text in texts)
    console = make_console(markup=False, emoji=False)
    bar = Progress(name, BarColumn(bar_width=bar_width), line, console=console, transient=True)
    bar.disable = not console.is_terminal
    return bar


class LiveLine:
    """A listener that shows a phase, its count and the time that it still takes."""

    def __init__(self, bar: Progress, title: str):
        self.bar, self.task = bar, bar.add_task(title, total=1, line="")
        self.begun: dict[str, tuple[float, int]] = {}  # of each phase: the time and the count of its first report

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, first = self.begun.setdefault(name, (now, done))
        line = f"{name} {done:,} of {total:,}" if total > 1 else name
        if done > first and now - since > SETTLED and done < total:
            line += f"  {duration((now - since) / (done - first) * (total - done))} left"
        self.bar.update(self.task, completed=done, total=total, line=line)


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[None]:
    """Show the phases of what is done inside the context if stdout is a terminal."""
    with make_bar() as bar, listening(LiveLine(bar, title)):
        yield
