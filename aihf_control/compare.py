"""Compare two finished runs: their settings and their results.

python -m aihf_control.compare results/first/Hopper-v4/aihf/20261121-080206-883 results/bench/main/cells/0123abcd-4567
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs to compare."""

    first: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    second: tyro.conf.Positional[Path]
    """Folder of another finished run."""


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 0, or 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("compare"), description=about)
    from aihf_control.report.differences import compare  # here, for pandas and scipy would delay --help

    return exit_code(compare, options.first, options.second)


if __name__ == "__main__":
    sys.exit(main())
