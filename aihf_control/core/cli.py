"""Helpers of the commands: exit codes and subcommands."""

from __future__ import annotations

import functools
import reprlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from aihf_control.core.errors import BadInput, BadLines, InputWarning


def exit_code(command: Callable[..., Any], *args: Any) -> int:
    """Run a command and return its exit code: 0, or 2 for bad input, which is reported in one line per fault."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            command(*args)
    except BadInput as e:
        if isinstance(e, BadLines):
            print("\n".join(e.summary()), file=sys.stderr)
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"error: {describe(e)}", file=sys.stderr)
        return 2
    return 0


def describe(e: OSError) -> str:
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
