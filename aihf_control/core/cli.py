"""Commands: exit codes and subcommands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from aihf_control.core.errors import BadInput, BadLines


def exit_code(command: Callable[..., Any], *args: Any) -> int:
    """Runs a command to its exit code: 0, or 2 for bad input, which becomes one line (after one for each bad one)."""
    try:
        command(*args)
    except BadInput as e:
        if isinstance(e, BadLines):
            print("\n".join(e.summary()), file=sys.stderr)
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def subcommands(doors: dict[str, Callable], argv: Sequence[str] | None, module: str) -> None:
    tyro.extras.subcommand_cli_from_dict(doors, args=argv, prog=f"python -m {module}")
