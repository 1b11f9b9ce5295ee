"""Report finished runs as tables and figures, check them, rank their methods, or list the claims that hold.

    python -m aihf_control.report results/bench/main
    python -m aihf_control.report results/first
    python -m aihf_control.report --check results/bench/main
    python -m aihf_control.report results/bench --leaderboard results/leaderboard
    python -m aihf_control.report results/bench/regimes --claims results/regimes

For a grid that the bench ran, writes csv, Markdown, LaTeX, figures and a page into its `report`; for other runs below
the folder, a `table.md` and `curves` in three formats into the folder itself. Runs that cannot be reported are excluded
by name.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs to report."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders with runs or grids anywhere below them."""
    check: bool = False
    """Only compute every number again from the logs, and compare; exit code 2 if one does not agree."""
    leaderboard: Path | None = None
    """Only check the runs, and write a leaderboard of their methods into this folder."""
    claims: Path | None = None
    """Only check the runs, and write the claims of their experiments with the verdicts into this folder."""


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 0 if at least one run was reported, 2 for bad input."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("report"), description=about)
    return exit_code(report, options)


def report(options: Options) -> None:
    """Report, check or rank the runs below the folders. Raises BadInput."""
    if not options.folders:
        raise BadInput("nothing to report: give a folder with runs, such as results/runs")
    if sum(map(bool, (options.check, options.leaderboard, options.claims))) > 1:
        raise BadInput("give one of --check, --leaderboard and --claims; the last two check the runs, too")
    if options.leaderboard:
        from aihf_control.report.leaderboard import write_leaderboard  # here, for pandas would delay --help

        for path in write_leaderboard(options.folders, options.leaderboard):
            print(f"leaderboard: {path}")
    elif options.claims:
        from aihf_control.report.claims_page import write_claims  # as above

        for path in write_claims(options.folders, options.claims):
            print(f"claims: {path}")
    elif options.check:
        _check(options.folders)
    else:
        from aihf_control.report.runs import report_folder  # as above

        for folder in options.folders:
            report_folder(folder)


def _check(folders: Sequence[Path]) -> None:
    from aihf_control.report.check import NOT_RECOMPUTED, check_folder  # as above

    for folder in folders:
        runs, numbers = check_folder(folder)
        print(f"{folder}: {numbers:,} numbers of {runs} runs agree with their logs")
    print(f"not in the logs, and so not computed again: {NOT_RECOMPUTED}")


if __name__ == "__main__":
    sys.exit(main())
