"""The command `aihf`: runs one of the package's commands by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from aihf_control.core.cli import ends_with_reader
from aihf_control.core.placeholders import install_for_help

COMMANDS = {
    "run": "run",
    "data": "data.__main__",
    "label": "label.__main__",
    "experts": "experts.__main__",
    "bench": "bench.__main__",
    "report": "report.__main__",
    "compare": "compare",
    "play": "play",
    "retrain": "retrain",
    "yardstick": "yardstick.__main__",
    "speed": "speed.__main__",
}


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run `aihf COMMAND ...` and return its exit code."""
    if argv is None:  # a process of its own
        argv = sys.argv[1:]
        install_for_help(argv)
    argv = list(argv)
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: aihf {{{','.join(COMMANDS)}}} ... (each has --help)", file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return import_module(f"aihf_control.{COMMANDS[argv[0]]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
