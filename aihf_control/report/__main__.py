"""Report finished runs as tables and figures.

    python -m aihf_control.report results/bench/main
    python -m aihf_control.report results/first

For a grid that the bench ran, writes csv, Markdown, LaTeX, figures and a page into its `report`; for other runs below
the folder, a `table.md` and a `curves.png` into the folder itself. Runs that cannot be reported are excluded by name.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs to report."""

    folder: tyro.conf.Positional[Path]
    """Folder with runs or grids anywhere below it."""


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 0 if at least one run was reported, 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.report", description=about)
    from aihf_control.report.runs import report_folder  # here, for pandas and matplotlib would delay --help

    return exit_code(report_folder, options.folder)


if __name__ == "__main__":
    sys.exit(main())
