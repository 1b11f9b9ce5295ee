"""Run grids of methods, environments and data, each from one file, and report them.

python -m aihf_control.bench experiments/smoke.toml
python -m aihf_control.bench experiments/main.toml --only env=Hopper-v4 method=aihf --workers 4
python -m aihf_control.bench experiments/main.toml --list          # the exact commands, one per line
python -m aihf_control.bench experiments/main.toml --dry-run       # the cells, and how long they will take
python -m aihf_control.bench experiments/regimes/*.toml            # several grids, one after the other
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from aihf_control.bench.options import Options
from aihf_control.core.cli import ends_with_reader, exit_code, program_name


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return its exit code: 0, 1 if cells failed, 2 for bad input, 130 or 143 if a signal ended it."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("bench"), description=about)
    from aihf_control.bench.session import run_grids  # here, for torch and Gymnasium would delay --help

    try:
        return exit_code(run_grids, options)
    except KeyboardInterrupt:
        print("aborted; run the same command again to resume cells from their last checkpoints", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
