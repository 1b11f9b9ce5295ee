"""Compare our SAC with Stable-Baselines3's on the true reward: same task, same budget, same settings.

    python -m aihf_control.yardstick --env Hopper-v4 --learner ours
    python -m aihf_control.yardstick --env Hopper-v4 --learner sb3
    python -m aihf_control.yardstick --table

Each measurement is a csv in results/yardstick; `--table` compares all of them. After a kill or SIGTERM the same command
resumes: ours from its last checkpoint, SB3's from its last complete seed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import pandas as pd
import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput
from aihf_control.core.files import check_writable, lock, write_bytes
from aihf_control.core.provenance import commit, versions
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import watch
from aihf_control.models.device import use_one_thread
from aihf_control.yardstick.learners import train_ours, train_sb3
from aihf_control.yardstick.options import Options
from aihf_control.yardstick.table import Rows, compare, read


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, 2 for bad input, 130 if interrupted, 143 if paused by SIGTERM."""
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("yardstick"), description=about)
    try:
        return exit_code(compare, options.out, options.reach) if options.table else exit_code(_measure_watched, options)
    except KeyboardInterrupt:
        print("Aborted. The same command resumes from the last checkpoint or complete seed.", file=sys.stderr)
        return 130


def _measure_watched(options: Options) -> None:
    with watch(options.env, options.step_timeout):
        measure(options)


def measure(options: Options) -> None:
    """Train the seeds that are not in the csv yet and add their rows. Raises BadInput."""
    options.check()
    allow_module(options.env)
    spec = spec_of(options.env)
    _read_rows(options)  # raises now, before anything is written
    check_writable(options.out)
    use_one_thread()
    train = train_ours if options.learner == "ours" else train_sb3
    with _lock_csv(options):
        rows, common = _read_rows(options), options.about | _versions()
        for new in train(spec, options, {row["seed"] for row in rows}):
            rows += [row | common for row in new]
            csv = pd.DataFrame(rows).round(1).to_csv(index=False, lineterminator="\n")
            write_bytes(options.csv, csv.encode())
    print(f"{options.csv}: {len({row['seed'] for row in rows})} seeds")


def _versions() -> dict[str, str]:
    """Return the columns with commit and versions; seeds that a later call adds may have others."""
    return {"commit": commit()} | {name: versions()[name] for name in ("torch", "stable_baselines3", "mujoco")}


@contextlib.contextmanager
def _lock_csv(options: Options) -> Iterator[None]:
    """Keep other processes from writing the same csv. Raises BadInput if one is running."""
    path = options.csv.with_suffix(".lock")
    with lock(path, f"{options.csv} is being measured; wait for it or give another --out"):
        try:
            yield
        finally:
            path.unlink()


def _read_rows(options: Options) -> Rows:
    """Read the rows of the seeds that are in the csv. Raises BadInput if it was measured with other settings."""
    if not options.csv.exists():
        return []
    frame = read(options.csv)
    steps = set(range(options.every, options.steps + 1, options.every))
    widths = {int(x) for x in frame["width"]}
    if widths != {options.width} or any(set(rows["step"]) != steps for _, rows in frame.groupby("seed")):
        raise BadInput(
            f"{options.csv} has {frame['step'].max()} steps at width {', '.join(map(str, widths))}, "
            f"evaluated at {frame['step'].nunique()} of them; remove it or give another --out"
        )
    return frame.to_dict("records")  # pyright: ignore[reportReturnType]


if __name__ == "__main__":
    sys.exit(main())
