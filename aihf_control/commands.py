"""The door `aihf` to all commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aihf_control import bench, compare, report, retrain, run, speed, yardstick
from aihf_control.data_commands import data_main
from aihf_control.expert_commands import experts_main


def main(argv: Sequence[str] | None = None) -> int:
    """`aihf run|data|experts|bench|report|compare|retrain|yardstick|speed ...`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    doors = {
        "run": run.main,
        "data": data_main,
        "experts": experts_main,
        "bench": bench.main,
        "report": report.main,
        "compare": compare.main,
        "retrain": retrain.main,
        "yardstick": yardstick.main,
        "speed": speed.main,
    }
    if not argv or argv[0] not in doors:
        print(f"usage: aihf {{{','.join(doors)}}} ... (each has --help)", file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return doors[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main())
