"""Measure the speed of the learner against baselines: one thread each, in turns; medians and ratios.

    python -m aihf_control.speed [--sbx PYTHON]

writes measurements, settings and versions, a table and a figure to results/speed. Every learner is a process of its
own, pinned to one core. The learners of a comparison run side by side and are measured in turns of half a second, so
that other load on the machine affects all of them alike.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
import tyro

from aihf_control.core.cli import ends_with_reader, exit_code, program_name
from aihf_control.core.errors import BadInput, above_zero, at_least_one
from aihf_control.core.files import write_bytes, write_json
from aihf_control.core.live import show_progress
from aihf_control.core.progress import report
from aihf_control.core.provenance import commit, versions
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, TIMEOUT_CODE, EnvTimeout, StepTimeout, watch
from aihf_control.models import kernel_library
from aihf_control.models.device import device_of, matmul_precision, processor
from aihf_control.speed.processes import measure_in_turns, measure_once
from aihf_control.speed.table import draw_growth, format_table
from aihf_control.speed.worker import BY_TORCH, OURS, PRODUCTS, Row, run_worker

REST = (("rollout", 1), ("evaluate_policy", 1), ("checkpoint", 5), ("reward", 5))  # (learner column, lanes)


@dataclasses.dataclass(frozen=True)
class Options:
    """Learners, environments and sizes that are measured."""

    envs: tuple[str, ...] = ("Hopper-v4", "HalfCheetah-v4", "Humanoid-v4")
    """Gymnasium ids of the comparison; the first one is used for all else."""
    width: int = 256
    """Width of the two hidden layers in the comparison."""
    lanes: tuple[int, ...] = (1, 5, 10)
    """Numbers of lanes of our learner in the comparison."""
    growth_lanes: tuple[int, ...] = (1, 2, 5, 10, 20, 32)
    """Numbers of lanes in the figure of updates against lanes."""
    growth_widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths in the figure of updates against lanes."""
    rest: bool = True
    """Also measure rollouts, checkpoints and reward steps."""
    rounds: int = 10
    """Rounds. In each, every learner of a comparison is measured once."""
    seconds: float = 0.5
    """Duration of a turn: seconds each for updates, for the whole loop, and for steps of our learner."""
    sbx: Path | None = None
    """Python of an environment with SBX, which is then measured too."""
    device: str = "cpu"
    """Device of the networks of all learners: cpu, cuda, cuda:1, ..., or auto for an accelerator if there is one. The
    environments run on the CPU."""
    out: Path = Path("results/speed")
    """Folder to write."""
    step_timeout: StepTimeout = DEFAULT_TIMEOUT

    def check(self) -> None:
        """Raise BadInput for a value out of range or an unknown environment."""
        at_least_one({"--rounds": self.rounds, "--width": self.width, "--lanes": min(self.lanes, default=0)})
        above_zero("--seconds", self.seconds)
        if self.sbx and not (self.sbx.is_file() and os.access(self.sbx, os.X_OK)):
            raise BadInput(f"--sbx must be the path of a Python executable, got {self.sbx}")


@ends_with_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, 2 for bad input, 124 if an environment hangs."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--turn"]:  # a worker process, started by the command itself
        run_worker(json.loads(argv[2]), float(argv[1]))
        return 0
    about = (__doc__ or "").splitlines()[0]
    options = tyro.cli(Options, args=argv, prog=program_name("speed"), description=about)
    try:
        with show_progress("speed"):
            return exit_code(measure, options)
    except EnvTimeout as e:
        print(f"error: {e}", file=sys.stderr)
        return TIMEOUT_CODE


def measure(options: Options) -> None:
    """Measure everything, and write csv, table and figure as rows arrive. Raises BadInput and EnvTimeout."""
    options.check()
    options = dataclasses.replace(options, device=device_of(options.device))
    allow_module(*options.envs)
    for env in options.envs:
        with watch(env, options.step_timeout):
            spec_of(env)
    _write_provenance(options)
    rows: list[Row] = []
    for row in measurements(options):
        rows.append(row)
        report("measurements", len(rows), count_measurements(options))
        print(" ".join(f"{k}={v:.0f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
        csv = pd.DataFrame(rows).round(2).to_csv(index=False, lineterminator="\n")
        write_bytes(options.out / "speed.csv", csv.encode())
    text = format_table(pd.DataFrame(rows))
    write_bytes(options.out / "table.md", text.encode())
    write_bytes(options.out / "growth.png", draw_growth(pd.DataFrame(rows)))
    print(text)


def _write_provenance(options: Options) -> None:
    """Write options, versions, commit and processor to made.json; print processor and kernels."""
    given = dataclasses.asdict(options) | {"sbx": options.sbx is not None}  # the path has no meaning elsewhere
    made = {"options": given, "versions": versions(), "commit": commit()}
    kernels = {name: kernel_library.state(name) for name in ("float32", "bfloat16")}
    write_json(options.out / "made.json", made | {"processor": processor(), "products": kernels})
    print("; ".join([processor(), *(f"{name} products by {k}" for name, k in kernels.items())]), flush=True)


# ------------------------------------------------------------------------------------------------------- measurements


def measurements(options: Options) -> Iterator[Row]:
    """Yield all rows: the comparison, the cost against lanes, and the rest."""
    best = matmul_precision("auto", options.device)
    for env in options.envs:
        for lanes in options.lanes:
            yield from _measure_comparison(env, lanes, best, options)
    for width in options.growth_widths:
        yield from _measure_growth(width, best, options)
    for k in range(min(options.rounds, 3)):
        for learner, lanes in _rest(options):
            yield _measure_rest(learner, lanes, k, options)


def _rest(options: Options) -> list[tuple[str, int]]:
    """Return what else is measured, without what needs bundled policies where there are none."""
    if not options.rest:
        return []
    known = card_of(options.envs[0]) is not None
    return [(learner, n) for learner, n in REST if known or learner not in ("checkpoint", "reward")]


def count_measurements(options: Options) -> int:
    """Return the number of rows that `measurements` yields."""
    learners = len(list(_variants(matmul_precision("auto", options.device), options.device)))
    learners += len(_baselines(options))
    compared = len(options.envs) * len(options.lanes) * learners
    growth = len(options.growth_widths) * len(options.growth_lanes)
    return options.rounds * (compared + growth) + min(options.rounds, 3) * len(_rest(options))


def _baselines(options: Options) -> list[str]:
    return ["sb3", "plain", *(["sbx"] if options.sbx else [])]


def _measure_comparison(env: str, lanes: int, best: str, options: Options) -> Iterator[Row]:
    """Measure our learner with a number of lanes beside the baselines."""
    ours = [
        {"learner": name, "lanes": lanes, "precision": p, "kernel": _kernel_of(name, p, options.device)}
        for name, p in _variants(best, options.device)
    ]
    baselines = [{"learner": name, "lanes": 1, "precision": "float32"} for name in _baselines(options)]
    common = {"part": "comparison", "env": env, "width": options.width, "beside": lanes, "device": options.device}
    cases = [common | learner for learner in (*ours, *baselines)]
    tasks = ("updates", "loop", "steps")
    yield from measure_in_turns(cases, tasks, options.rounds, options.seconds, options.sbx, options.step_timeout)


def _measure_growth(width: int, best: str, options: Options) -> Iterator[Row]:
    """Measure our learner with all numbers of lanes beside each other."""
    common = {"part": "growth", "env": options.envs[0], "width": width, "learner": OURS, "precision": best}
    cases = [common | {"lanes": n, "device": options.device} for n in options.growth_lanes]
    yield from measure_in_turns(cases, ("updates",), options.rounds, options.seconds, options.sbx, options.step_timeout)


def _measure_rest(learner: str, lanes: int, k: int, options: Options) -> Row:
    """Measure a rollout, a checkpoint or a reward step, in round k."""
    case = {"part": "rest", "env": options.envs[0], "width": options.width, "learner": learner, "lanes": lanes}
    more = {"device": options.device, "precision": "float32", "round": k, "seconds": 6 * options.seconds}
    return measure_once(case | more, options.sbx, options.step_timeout)


def _variants(best: str, device: str) -> Iterator[tuple[str, str]]:
    """Yield (learner, precision) of ours: the learner, its matrix products alone, and the learner without kernel.c."""
    for precision in sorted({"float32", best}, reverse=True):
        yield OURS, precision
        yield PRODUCTS, precision
        if device == "cpu" and kernel_library.library(getattr(torch, precision)):
            yield BY_TORCH, precision


def _kernel_of(learner: str, precision: str, device: str) -> str:
    """Name the kernel that computes the perceptrons of one of our learners."""
    return "torch" if learner == BY_TORCH or device != "cpu" else kernel_library.state(precision)


if __name__ == "__main__":
    sys.exit(main())
