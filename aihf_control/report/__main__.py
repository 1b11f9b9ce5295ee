"""Tables and figures of finished runs.

    python -m aihf_control.report results/bench/main
    python -m aihf_control.report results/first

Of a grid that the bench ran it writes csv, markdown, LaTeX, figures and a page into its `report`; of other runs below
the folder a `table.md` and a `curves.png` into the folder itself.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from aihf_control.core.cli import exit_code
from aihf_control.report.runs import report_folder


@dataclasses.dataclass(frozen=True)
class Options:
    """What is reported."""

    folder: tyro.conf.Positional[Path]
    """A folder with runs or grids anywhere below it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.report", description=about)
    return exit_code(report_folder, options.folder)


if __name__ == "__main__":
    sys.exit(main())
