"""Helpers of the commands: exit codes and subcommands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from aihf_control.core.errors import BadInput, BadLines


def exit_code(command: Callable[..., Any], *args: Any) -> int:
    """Run a command and return its exit code: 0, or 2 for bad input, which is reported in one line per fault."""
    try:
        command(*args)
    except BadInput as e:
        if isinstance(e, BadLines):
            print("\n".join(e.summary()), file=sys.stderr)
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def subcommands(commands: dict[str, Callable], argv: Sequence[str] | None, module: str) -> None:
    """Run the subcommand of `python -m module` that `argv` names."""
    tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog=f"python -m {module}")
