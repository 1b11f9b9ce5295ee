"""The command `aihf`: runs one of the package's commands by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from aihf_control import __version__
from aihf_control.core.cli import check_command, ends_with_reader, exit_code, inside_aihf
from aihf_control.core.completion import SHELLS, script
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
ABOUT = {
    "run": "train a method on an environment",
    "data": "make, import, export, show and verify datasets",
    "label": "let people compare clips of a dataset on a local web page",
    "experts": "train, import, evaluate and document expert policies",
    "bench": "run grids of methods, environments and data, each from one file",
    "report": "tables and figures of finished runs",
    "compare": "how the settings and results of two runs differ",
    "play": "film policies",
    "retrain": "train policies from scratch on learned rewards",
    "yardstick": "compare the learner with others on the true reward",
    "speed": "measure the speed of the learner",
}


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run `aihf COMMAND ...` and return its exit code, 2 for an unknown command."""
    if argv is None:  # a process of its own
        argv = sys.argv[1:]
        sys.path.insert(0, os.getcwd())  # as `python -m` does, for environments of the folder's own modules
        install_for_help(argv)
    argv = list(argv)
    if not argv or argv[0] in ("-h", "--help", "--help-all"):
        print(_usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"aihf_control {__version__}")
        return 0
    if argv[0] == "--completion":
        return _print_completion(argv[1:])
    if code := exit_code(check_command, argv[0], COMMANDS):
        return code
    with inside_aihf():
        return import_module(f"aihf_control.{COMMANDS[argv[0]]}").main(argv[1:])


def _usage() -> str:
    lines = [f"  {name:<{max(map(len, ABOUT))}}  {about}" for name, about in ABOUT.items()]
    more = [
        "aihf COMMAND --help      the settings that most people need",
        "aihf COMMAND --help-all  all of them",
        "aihf --version",
        f"aihf --completion SHELL  completion for {' or '.join(SHELLS)}: source <(aihf --completion bash)",
    ]
    return "\n".join(["usage: aihf COMMAND ...", "", *lines, "", *more])


def _print_completion(words: list[str]) -> int:
    if len(words) != 1 or words[0] not in SHELLS:
        print(f"error: --completion needs the name of a shell: {' or '.join(SHELLS)}", file=sys.stderr)
        return 2
    print(script(words[0], list(COMMANDS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
