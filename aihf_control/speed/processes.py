"""Processes of the speed command: one per learner, pinned to one core, measured in turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from aihf_control.core.errors import BadInput
from aihf_control.models import kernel
from aihf_control.speed import baselines
from aihf_control.speed.worker import BY_TORCH, Row

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def measure_in_turns(
    cases: Sequence[Row], tasks: Sequence[str], rounds: int, seconds: float, sbx: Path | None
) -> Iterator[Row]:
    """Start a process per case and measure their tasks in turns of `seconds`; yield a row per case and round.

    A process is idle while others are measured, so that other load on the machine affects all of them alike.
    """
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(LearnerProcess(case, sbx)) for case in cases]
        for k in range(rounds):
            rows: list[Row] = [{**case, "round": k} for case in cases]
            for task in tasks:
                for row, process in zip(rows, processes, strict=True):
                    row |= process.measure(task, seconds)
            yield from rows


class LearnerProcess:
    """A process with one learner, which measures tasks on request while the context lasts."""

    def __init__(self, case: Row, sbx: Path | None):
        words, env = command_of(case, sbx)
        self.case = case
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115, it is closed at the exit
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True, env=env
        )

    def __enter__(self) -> LearnerProcess:
        self.tasks = self._read_answer()["tasks"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.stderr.close()

    def measure(self, task: str, seconds: float) -> Row:
        """Return the rate of a task per second, summed over lanes, and the peak memory; {} for an unknown task.

        Raises BadInput if the process has ended.
        """
        if task not in self.tasks:
            return {}
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # a process that has ended gives no answer, which is reported
            print(task, seconds, file=self.process.stdin, flush=True)
        figures = self._read_answer()
        return figures | {task: figures[task] * self.case["lanes"]}

    def _read_answer(self) -> Row:
        """Read the next JSON line; other lines are output of libraries."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.stderr.seek(0)
        raise _failure(self.case, self.stderr.read())


def measure_once(case: Row, sbx: Path | None = None) -> Row:
    """Measure a case in a process of its own; return it with its figures. Raises BadInput if the process fails."""
    words, env = command_of(case, sbx)
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        raise _failure(case, done.stderr)
    return case | json.loads(done.stdout.splitlines()[-1])


def _failure(case: Row, stderr: str) -> BadInput:
    last = (stderr.strip().splitlines() or ["the process ended without a message"])[-1]
    return BadInput(f"measuring {case['learner']} on {case['env']} failed: {last}")


def command_of(case: Row, sbx: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the command that measures a case, and its environment variables, under which it sees only its GPU."""
    device, _, number = case["device"].partition(":")
    env = {**os.environ, **ONE_THREAD, "JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if number:  # an index into the visible GPUs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
    if case["learner"] == BY_TORCH:
        env[kernel.SWITCH] = "0"
    if case["learner"] in ("sb3", "plain", "sbx"):
        python = str(sbx) if case["learner"] == "sbx" else sys.executable
        return [python, baselines.__file__, case["learner"], case["env"], str(case["width"]), device], env
    return [sys.executable, "-m", "aihf_control.speed", "--turn", json.dumps(case | {"device": device})], env
