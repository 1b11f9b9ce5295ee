"""One training run: a method on a dataset, all its seeds as lanes.

Yields the run as a stream of events. Prints nothing and writes only checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EVALUATION_SEED
from aihf_control.learning.evaluation import RewardEvaluator, greedy_returns, group_columns
from aihf_control.learning.task import Progress, Task
from aihf_control.models.reward_state import RewardState
from aihf_control.training.checkpoint import Checkpoints, Saved, restore

TICK_EVERY = 0.5  # seconds between two progress events


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """All that determines the numbers of a run, except the data."""

    method: str
    cfg: Any
    """The method's `Config`."""
    seeds: tuple[int, ...]
    demos: int = 1
    pairs: int = 200
    steps: int = 25_000
    evaluations: int = 8
    """Evaluations during training, evenly spaced."""
    eval_episodes: int = 5
    final_episodes: int = 20
    device: str = "cpu"
    products: str = "float32"
    """Type of the inner matrix products: float32 or bfloat16."""

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("steps", "evaluations", "eval_episodes", "final_episodes")}
        for name, n in {"seeds": len(self.seeds), **counts}.items():
            if n < 1:
                raise BadInput(f"--{name.replace('_', '-')} must be at least 1, got {n}")
        if not 0 <= min(self.seeds) <= max(self.seeds) < EVALUATION_SEED or len(set(self.seeds)) < len(self.seeds):
            raise BadInput(f"seeds must differ and be from 0 to {EVALUATION_SEED - 1}, got {self.seeds}")

    @property
    def on_cpu(self) -> bool:
        """Whether it runs on the CPU, where `models/kernel.py` may compute its products."""
        return self.device == "cpu"

    def evaluated_at(self) -> set[int]:
        """Return the steps after which the policy is evaluated."""
        return {round(self.steps * i / self.evaluations) for i in range(1, self.evaluations + 1)}


@dataclasses.dataclass(frozen=True)
class Tick:
    """Progress: the lanes of `seeds` have done `step` iterations."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation: one row a lane with seed, step, returns of the episodes, reward quality, the method's scalars."""

    step: int
    rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of the lanes of `seeds`: the state of the policy and the reward, lanes first."""

    seeds: tuple[int, ...]
    step: int
    policy: dict[str, Tensor]
    reward: RewardState | None


@dataclasses.dataclass(frozen=True)
class Failed:
    """A worker cannot continue, because of bad input or of a bug (then `message` is a traceback)."""

    message: str
    bad_input: bool


@dataclasses.dataclass(frozen=True)
class Paused:
    """The lanes of `seeds` have stopped as requested, with a checkpoint on the disk."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Notice:
    """A message to the user that does not stop the run."""

    message: str


Event = Tick | Evaluated | Finished | Failed | Paused | Notice


@dataclasses.dataclass(frozen=True)
class CheckpointPlace:
    """The folder of a worker's checkpoints, and the minutes from one to the next."""

    folder: Path
    minutes: float = 3.0


def train_lanes(
    run_spec: RunSpec, dataset: Dataset, stop: Any = None, pause: Any = None, place: CheckpointPlace | None = None
) -> Iterator[Event]:
    """Train the run's lanes in this process.

    `stop.is_set()` ends training early, with the policy of that step. With a `place` training resumes from its last
    checkpoint, to the same bits as without an interruption, and `pause.is_set()` writes a checkpoint and stops.
    """
    checkpointer, notices = _Checkpointer(place, run_spec.steps), []
    done = checkpointer.store and checkpointer.store.finished(notices.append)
    if done:
        yield from _replay_rows(done.rows)
        reward = done.state["reward"]
        yield Finished(run_spec.seeds, done.step, done.state["policy"], RewardState(**reward) if reward else None)
        return
    saved = checkpointer.store and checkpointer.store.last(notices.append)
    yield from map(Notice, notices)
    for event in _train(run_spec, dataset, saved, stop, pause, checkpointer):
        checkpointer.observe(event)
        yield event


class _Checkpointer:
    """Collects evaluations and writes a checkpoint when one is due. Without a place it writes nothing."""

    def __init__(self, place: CheckpointPlace | None, steps: int):
        self.steps = steps
        self.store = Checkpoints(place.folder) if place else None
        self.seconds = 60 * place.minutes if place else math.inf
        self.rows: list[dict[str, Any]] = []
        self.last = time.monotonic()

    def observe(self, event: Event) -> None:
        """Collect an evaluation; store the result of lanes that have done all their steps."""
        if isinstance(event, Evaluated):
            self.rows += event.rows
        if self.store and isinstance(event, Finished) and event.step == self.steps:
            reward = event.reward and {f.name: getattr(event.reward, f.name) for f in dataclasses.fields(event.reward)}
            self.store.finish(event.step, self.rows, {"policy": event.policy, "reward": reward})

    def write(self, task: Task, now: bool = False) -> None:
        """Write a checkpoint if one is due, or `now`. Before the first iteration there is nothing to write."""
        if self.store and task.step and (now or time.monotonic() - self.last >= self.seconds):
            self.store.save(task.step, self.rows, task)
            self.last = time.monotonic()


def _train(
    run_spec: RunSpec, dataset: Dataset, saved: Saved | None, stop: Any, pause: Any, checkpointer: _Checkpointer
) -> Iterator[Event]:
    """Train from the start or a checkpoint until the end, a stop or a pause."""
    task = _task_of(run_spec, dataset)
    evaluator = RewardEvaluator(dataset, len(run_spec.seeds), run_spec.device)
    if saved:
        restore(task, saved)
    steps, last_tick = methods.load(run_spec.method).train(task, run_spec.cfg), time.monotonic()
    step, progress, at = saved.step if saved else 0, next(steps), run_spec.evaluated_at()
    yield from (
        _replay_rows(saved.rows) if saved else [_evaluate(task, evaluator, progress, step, run_spec.final_episodes)]
    )
    while step < run_spec.steps and not (stop and stop.is_set() and task.step == step):  # first restore the state
        if pause and pause.is_set():
            checkpointer.write(task, now=True)
            yield Paused(run_spec.seeds, step)
            return
        step, progress = step + 1, next(steps)
        if time.monotonic() - last_tick > TICK_EVERY:
            last_tick = time.monotonic()
            yield Tick(run_spec.seeds, step)
        if step < run_spec.steps:
            if step in at:
                yield _evaluate(task, evaluator, progress, step, run_spec.eval_episodes)
            checkpointer.write(task)
    if step < run_spec.steps:
        checkpointer.write(task, now=True)
    if step:
        yield _evaluate(task, evaluator, progress, step, run_spec.final_episodes)
    policy = {name: t.detach().cpu() for name, t in progress.policy.state_dict().items()}
    yield Finished(run_spec.seeds, step, policy, progress.reward.export() if progress.reward else None)


def check_start(run_spec: RunSpec, dataset: Dataset) -> None:
    """Start the method, with one update of its clone, so that it checks its data. Raises BadInput."""
    cfg = run_spec.cfg
    with contextlib.suppress(AttributeError, BadInput):  # a method without a clone, or bc, whose updates are its steps
        cfg = dataclasses.replace(cfg, clone=dataclasses.replace(cfg.clone, updates=1))
    next(methods.load(run_spec.method).train(_task_of(run_spec, dataset), cfg))


def _task_of(run_spec: RunSpec, dataset: Dataset) -> Task:
    dtype = getattr(torch, run_spec.products)
    return Task(dataset, run_spec.seeds, run_spec.demos, run_spec.pairs, run_spec.device, dtype)


def _replay_rows(rows: list[dict[str, Any]]) -> Iterator[Evaluated]:
    """Yield the evaluations that a checkpoint holds, step by step."""
    for step, together in itertools.groupby(rows, lambda row: row["step"]):
        yield Evaluated(step, list(together))


def _evaluate(task: Task, evaluator: RewardEvaluator, progress: Progress, step: int, n: int) -> Evaluated:
    returns = greedy_returns(progress.policy, task.spec, n)
    columns = log_columns(task, evaluator, progress)
    columns |= group_columns(task.spec, returns)
    rows = [
        {"seed": seed, "step": step, "return": float(r.mean()), "returns": r.tolist()}
        | {name: float(column[i]) for name, column in columns.items()}
        for i, (seed, r) in enumerate(zip(task.dims.seeds, returns, strict=True))
    ]
    return Evaluated(step, rows)


def log_columns(task: Task, evaluator: RewardEvaluator, progress: Progress) -> dict[str, Any]:
    """Return the columns of a log row besides the returns, each with a value a lane. Add a column here."""
    columns: dict[str, Any] = {"env_steps": task.n_steps, "labels": [task.n_labels] * task.dims.n_lanes}
    if task.labels_right is not None:
        columns["labels_right"] = task.labels_right
    if progress.reward is not None:
        columns["pair_accuracy"] = evaluator.accuracy(progress.reward)
        columns["rank_correlation"] = evaluator.rank_correlation(progress.reward)
        columns |= evaluator.group_columns(progress.reward)
    return columns | {name: value.tolist() for name, value in progress.info.items()}
