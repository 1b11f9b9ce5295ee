"""Helpers of the commands: exit codes, subcommands and the terminal."""

from __future__ import annotations

import functools
import os
import reprlib
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from aihf_control.core.errors import BadInput, BadLines, InputWarning

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
FILE_WIDTH = 132  # of output that does not go to a terminal

Main = Callable[..., int]


def ends_with_reader(main: Main) -> Main:
    """Wrap a command's `main`: it returns `CLOSED_PIPE` if the reader of its output has ended (`| head`)."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return _flushed(main, argv)
        except BrokenPipeError:
            if not _discard_unread_output():  # another pipe is broken
                raise
            return CLOSED_PIPE

    return wrapped


def _flushed(main: Main, argv: Sequence[str] | None) -> int:
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


def subcommands(commands: dict[str, Callable], argv: Sequence[str] | None, module: str) -> None:
    """Run the subcommand of `python -m module` that `argv` names."""
    tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog=f"python -m {module}")
