"""How fast the learner is, beside other learners, in one run: one thread each, turn by turn, medians and ratios.

    python -m aihf_control.speed [--sbx PYTHON]

writes measurements, what they were made with, a table and a figure to results/speed. Every learner is a process of its
own, pinned to one core. Those that are compared stand side by side and take turns of half a second, so that what else
the machine does falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
import tyro

from aihf_control.core.cli import exit_code
from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.core.files import write_bytes, write_json
from aihf_control.core.provenance import commit, versions
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from aihf_control.models import kernel
from aihf_control.models.device import device_of, matmul_precision, processor
from aihf_control.speed import baselines as rivals
from aihf_control.speed.table import figure, table
from aihf_control.speed.worker import BY_TORCH, FLOOR, OURS, Row, turn


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    envs: tuple[str, ...] = ("Hopper-v4", "HalfCheetah-v4", "Humanoid-v4")
    """Gymnasium ids of the comparison; the first also serves the rest."""
    width: int = 256
    """Width of the two hidden layers of the comparison."""
    lanes: tuple[int, ...] = (1, 5, 10)
    """Lanes of ours in the comparison."""
    growth_lanes: tuple[int, ...] = (1, 2, 5, 10, 20, 32)
    """Lanes of the figure of growing cost."""
    growth_widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths of the figure of growing cost."""
    rest: bool = True
    """Measure rollouts, checkpoints and reward steps, too."""
    rounds: int = 10
    """Rounds, in each of which every learner of a group has its turns."""
    seconds: float = 0.5
    """How long a turn times updates, and again as long the whole loop and our steps."""
    sbx: Path | None = None
    """The Python of an environment that has SBX, which is measured too if this is given."""
    device: str = "cpu"
    """Where the learners, ours and the others, keep their networks: cpu, cuda, cuda:1, ...; auto takes an accelerator
    where there is one. Environments stay on the CPU."""
    out: Path = Path("results/speed")
    """Folder to write."""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--turn"]:  # how the command calls itself
        turn(json.loads(argv[1]))
        return 0
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.speed", description=(__doc__ or "")[:120])
    return exit_code(measure, options)


def measure(options: Options) -> None:
    at_least_one({"--rounds": options.rounds, "--width": options.width, "--lanes": min(options.lanes, default=0)})
    if not options.seconds > 0:
        raise BadInput(f"--seconds {options.seconds}: give more than 0")
    if options.sbx and not (options.sbx.is_file() and os.access(options.sbx, os.X_OK)):
        raise BadInput(f"--sbx {options.sbx}: give the path of a Python")
    options = dataclasses.replace(options, device=device_of(options.device))
    allow_module(*options.envs)
    for env in options.envs:
        spec_of(env)
    rows: list[Row] = []
    given = dataclasses.asdict(options) | {"sbx": options.sbx is not None}  # the path is of this machine alone
    made = {"options": given, "versions": versions(), "commit": commit()}
    by = {name: kernel.state(name) for name in ("float32", "bfloat16")}
    write_json(options.out / "made.json", made | {"processor": processor(), "products": by})
    print("; ".join([processor(), *(f"{name} products by {what}" for name, what in by.items())]), flush=True)
    for row in measurements(options):
        rows.append(row)
        print(" ".join(f"{k}={v:.0f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
        frame = pd.DataFrame(rows)
        write_bytes(options.out / "speed.csv", frame.round(2).to_csv(index=False, lineterminator="\n").encode())
    text = table(pd.DataFrame(rows))
    write_bytes(options.out / "table.md", text.encode())
    write_bytes(options.out / "growth.png", figure(pd.DataFrame(rows)))
    print(text)


# ------------------------------------------------------------------------------------------------------- measurements


def measurements(options: Options) -> Iterator[Row]:
    """All rows: the comparison, a group for each number of lanes; how cost grows, a group a width; the rest."""
    best = matmul_precision("auto", options.device)
    peers: list[Row] = [
        {"learner": name, "lanes": 1, "precision": "float32"}
        for name in ("sb3", "plain", *(["sbx"] if options.sbx else []))
    ]
    for env in options.envs:
        for n in options.lanes:
            ours = [
                {"learner": name, "lanes": n, "precision": p, "kernel": _kernel_of(name, p, options.device)}
                for name, p in _of_ours(best, options.device)
            ]
            group = {"part": "comparison", "env": env, "width": options.width, "beside": n, "device": options.device}
            yield from _in_turns([group | who for who in (*ours, *peers)], ("updates", "loop", "steps"), options)
    env = options.envs[0]
    for width in options.growth_widths:
        group = {"part": "growth", "env": env, "width": width, "learner": OURS, "precision": best}
        lanes = [group | {"lanes": n, "device": options.device} for n in options.growth_lanes]
        yield from _in_turns(lanes, ("updates",), options)
    for k in range(min(options.rounds, 3) if options.rest else 0):
        for learner, lanes in (("rollout", 1), ("evaluate_policy", 1), ("checkpoint", 5), ("reward", 5)):
            if learner in ("checkpoint", "reward") and not card_of(env):
                continue  # their datasets are made from bundled policies
            what = {"part": "rest", "env": env, "width": options.width, "learner": learner, "lanes": lanes}
            more = {"device": options.device, "precision": "float32", "round": k, "seconds": 6 * options.seconds}
            yield _once(what | more, options)


def _of_ours(best: str, device: str) -> Iterator[tuple[str, str]]:
    """What of ours is compared, and its precision: the learner, without kernel.c, and the products alone."""
    for precision in sorted({"float32", best}, reverse=True):
        yield OURS, precision
        yield FLOOR, precision
        if device == "cpu" and kernel.library(getattr(torch, precision)):
            yield BY_TORCH, precision


def _kernel_of(learner: str, precision: str, device: str) -> str:
    """Name the kernel that computes the perceptrons of one of our learners."""
    return "torch" if learner == BY_TORCH or device != "cpu" else kernel.state(precision)


def _in_turns(group: Sequence[Row], works: Sequence[str], options: Options) -> Iterator[Row]:
    """A row for each learner and round. All are made first; then they take turns, and rest while others have theirs."""
    with contextlib.ExitStack() as running:
        there = [running.enter_context(_Served(what, options)) for what in group]
        for k in range(options.rounds):
            rows: list[Row] = [{**what, "round": k} for what in group]
            for work in works:
                for row, learner in zip(rows, there, strict=True):
                    row |= learner.turn(work, options.seconds)
            yield from rows


class _Served:
    """A process that has made a learner and answers for it, while the context lasts."""

    def __init__(self, what: Row, options: Options):
        words, env = _words(what, options)
        self.what = what
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115, it is closed at the exit
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=env
        )

    def __enter__(self) -> _Served:
        self.works = self._answer()["works"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()

    def turn(self, work: str, seconds: float) -> Row:
        """How many times a second, summed over lanes; nothing of what the learner does not do."""
        if work not in self.works:
            return {}
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # one that has ended gives no answer, which is told
            print(work, seconds, file=self.process.stdin, flush=True)
        figures = self._answer()
        return figures | {work: figures[work] * self.what["lanes"]}

    def _answer(self) -> Row:
        """The next line that is an answer: libraries print, too."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.said.seek(0)
        raise _failed(self.what, self.said.read())


def _once(what: Row, options: Options) -> Row:
    """Measures a work in a process of its own: `what` with its figures."""
    words, env = _words(what, options)
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        raise _failed(what, done.stderr)
    return what | json.loads(done.stdout.splitlines()[-1])


def _failed(what: Row, said: str) -> BadInput:
    last = (said.strip().splitlines() or ["it ended without a word"])[-1]
    return BadInput(f"measuring {what['learner']} on {what['env']} failed: {last}")


def _words(what: Row, options: Options) -> tuple[list[str], dict[str, str]]:
    """The command that measures `what`, and its environment, in which a GPU is the only one."""
    device, _, number = what["device"].partition(":")
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": _XLA}
    alone |= {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if number:  # of those that are to be seen already
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        alone["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(number)] if seen else number
    if what["learner"] == BY_TORCH:
        alone[kernel.SWITCH] = "0"
    if what["learner"] in ("sb3", "plain", "sbx"):
        python = str(options.sbx) if what["learner"] == "sbx" else sys.executable
        return [python, rivals.__file__, what["learner"], what["env"], str(what["width"]), device], alone
    return [sys.executable, "-m", "aihf_control.speed", "--turn", json.dumps(what | {"device": device})], alone


_XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


if __name__ == "__main__":
    sys.exit(main())
