"""Helpers of the commands: exit codes, subcommands and the terminal."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import reprlib
import select
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from aihf_control.core.errors import BadInput, BadLines, InputWarning
from aihf_control.core.help import help_level

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
FILE_WIDTH = 132  # of output that does not go to a terminal
UNBOUNDED = 10_000  # columns, in which every table fits

Main = Callable[..., int]
_inside_aihf = ContextVar("inside_aihf", default=False)


def ends_with_reader(main: Main) -> Main:
    """Wrap a command's `main`: it returns `CLOSED_PIPE` if the reader of its output has ended (`| head`)."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            with help_level(list(sys.argv[1:] if argv is None else argv)) as words:
                return _flushed(main, words)
        except BrokenPipeError:
            if not _discard_unread_output():  # another pipe is broken
                raise
            return CLOSED_PIPE

    return wrapped


def _flushed(main: Main, argv: Sequence[str]) -> int:
    """Run a command and write its buffered output, which Python does otherwise only when nothing can catch a fault."""
    try:
        code = main(argv)
    except SystemExit:  # after help, or for an unknown flag
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _discard_unread_output() -> bool:
    """Redirect stdout and stderr to the null device where they are pipes without a reader; return whether one was."""
    poll = select.poll()
    for fd in (1, 2):
        poll.register(fd, 0)  # errors are reported for every mask
    unread = [fd for fd, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for fd in unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    return bool(unread)


class _Console(Console):
    """A console that leaves a broken pipe to `ends_with_reader`."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled


def make_console(**options: Any) -> Console:
    """Create a console for the command's output; what does not go to a terminal is `FILE_WIDTH` columns wide."""
    console = _Console(highlight=False, **options)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Where the console is too narrow for it, print each row as lines of its own, so nothing is cut."""
    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    if Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum <= console.width:
        console.print(table)
        return
    width = max(map(len, head))
    for first, *others in rows:
        console.print(f"\n{escape(first)}", soft_wrap=True)
        for name, cell in zip(head[1:], others, strict=True):
            console.print(f"  {name:<{width}}  {escape(cell)}", soft_wrap=True)
    console.print()


def exit_code(command: Callable[..., Any], *args: Any) -> int:
    """Run a command and return its exit code: the one that it returns, 0 for None, or 2 for bad input.

    Bad input is reported in one line per fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            return command(*args) or 0
    except BadInput as e:
        if isinstance(e, BadLines):
            print("\n".join(e.summary()), file=sys.stderr)
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"error: {_describe(e)}", file=sys.stderr)
        return 2


def _describe(e: OSError) -> str:
    """Describe an error of a path that the user gave, such as a name that is too long. Raises other errors again."""
    if e.filename is None:
        raise e
    return f"cannot use {reprlib.repr(str(e.filename))}: {e.strerror}; give another path"


def _show_warning(show: Callable[..., None], message: Warning | str, category: type[Warning], *args: Any) -> None:
    """Print warnings about input in one line, others as Python does."""
    if issubclass(category, InputWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        show(message, category, *args)


def check_command(name: str, known: Collection[str]) -> None:
    """Raise BadInput for an unknown command, with the nearest known one, or with all."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(known)}"
        raise BadInput(f"unknown command {name!r}; {hint}")


@contextlib.contextmanager
def inside_aihf() -> Iterator[None]:
    """Inside the context commands name themselves `aihf COMMAND` in their help."""
    token = _inside_aihf.set(True)
    try:
        yield
    finally:
        _inside_aihf.reset(token)


def program_name(command: str) -> str:
    """Return how the command was started: `aihf run`, or `python -m aihf_control.run`."""
    return f"aihf {command}" if _inside_aihf.get() else f"python -m aihf_control.{command}"


def subcommands(commands: dict[str, Callable], argv: Sequence[str] | None, command: str) -> None:
    """Run the subcommand of `command` that `argv` names. Raises BadInput for an unknown one."""
    named = list(sys.argv[1:] if argv is None else argv)[:1]
    if named and not named[0].startswith("-"):
        check_command(named[0], commands)
    tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog=program_name(command))
