"""Processes of the speed command: one per learner, pinned to one core, measured in turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from aihf_control.core.errors import BadInput
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, TIMEOUT_CODE, EnvTimeout
from aihf_control.models import kernel_library
from aihf_control.speed import baselines
from aihf_control.speed.worker import BY_TORCH, Row

BASELINES = ("sb3", "plain", "sbx")
UNWATCHED = (*BASELINES, "evaluate_policy")
MAX_LIMIT = 1e6  # seconds; poll(2) takes no more than 24 days
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def measure_in_turns(
    cases: Sequence[Row],
    tasks: Sequence[str],
    rounds: int,
    seconds: float,
    sbx: Path | None,
    step_timeout: float = DEFAULT_TIMEOUT,
) -> Iterator[Row]:
    """Start a process per case and measure their tasks in turns of `seconds`; yield a row per case and round.

    A process is idle while others are measured, so that other load on the machine affects all of them alike. Raises
    EnvTimeout if an environment hangs.
    """
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(LearnerProcess(case, sbx, step_timeout)) for case in cases]
        for k in range(rounds):
            rows: list[Row] = [{**case, "round": k} for case in cases]
            for task in tasks:
                for row, process in zip(rows, processes, strict=True):
                    row |= process.measure(task, seconds)
            yield from rows


class LearnerProcess:
    """A process with one learner, which measures tasks on request while the context lasts."""

    def __init__(self, case: Row, sbx: Path | None, step_timeout: float = DEFAULT_TIMEOUT):
        words, env = command_of(case, sbx, step_timeout)
        self.case, self.step_timeout = case, step_timeout
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
        with _kill_late(self.process, answer_limit(self.case, self.step_timeout)) as late:
            for line in self.process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        if late.is_set():
            raise _lateness(self.case, answer_limit(self.case, self.step_timeout))
        self.stderr.seek(0)
        raise _failure(self.case, self.process.wait(), self.stderr.read())


def measure_once(case: Row, sbx: Path | None = None, step_timeout: float = DEFAULT_TIMEOUT) -> Row:
    """Measure a case in a process of its own; return it with its figures.

    Raises BadInput if the process fails, and EnvTimeout if the environment hangs.
    """
    words, env = command_of(case, sbx, step_timeout)
    limit = answer_limit(case, step_timeout)
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=limit or None)
    except subprocess.TimeoutExpired as e:
        raise _lateness(case, limit) from e
    if done.returncode:
        raise _failure(case, done.returncode, done.stderr)
    return case | json.loads(done.stdout.splitlines()[-1])


def answer_limit(case: Row, step_timeout: float) -> float:
    """Return the seconds within which a learner must answer; 0 is no limit.

    Ours watch every call of the environment, and need none. Marking the calls of others would slow what is measured, so
    the time of whole answers is limited, to no less than `DEFAULT_TIMEOUT`, since a learner takes time to start.
    """
    if case["learner"] not in UNWATCHED or not step_timeout:
        return 0.0
    return min(max(step_timeout, DEFAULT_TIMEOUT), MAX_LIMIT)


@contextlib.contextmanager
def _kill_late(process: subprocess.Popen, limit: float) -> Iterator[threading.Event]:
    """Kill a process if the context lasts longer than `limit` seconds (0: no limit); yield an event that tells so."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, kill)
    if limit:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _lateness(case: Row, limit: float) -> EnvTimeout:
    return EnvTimeout(
        f"measuring {case['learner']} on {case['env']} gave no answer within {limit:g} s; correct the environment, or "
        "give a longer --step-timeout (0: no limit)"
    )


def _failure(case: Row, code: int, stderr: str) -> BadInput | EnvTimeout:
    last = (stderr.strip().splitlines() or ["the process ended without a message"])[-1]
    if code == TIMEOUT_CODE:
        return EnvTimeout(last.removeprefix("error: "))
    return BadInput(f"measuring {case['learner']} on {case['env']} failed: {last}")


def command_of(
    case: Row, sbx: Path | None = None, step_timeout: float = DEFAULT_TIMEOUT
) -> tuple[list[str], dict[str, str]]:
    """Return the command that measures a case, and its environment variables, under which it sees only its GPU."""
    device, _, number = case["device"].partition(":")
    env = {**os.environ, **ONE_THREAD, "JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if number:  # an index into the visible GPUs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
    if case["learner"] == BY_TORCH:
        env[kernel_library.SWITCH] = "0"
    if case["learner"] in BASELINES:
        python = str(sbx) if case["learner"] == "sbx" else sys.executable
        return [python, baselines.__file__, case["learner"], case["env"], str(case["width"]), device], env
    turn = ["--turn", str(step_timeout), json.dumps(case | {"device": device})]
    return [sys.executable, "-m", "aihf_control.speed", *turn], env
