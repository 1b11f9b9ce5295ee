"""One training run: a method on a dataset, all its seeds as lanes.

Yields the run as a stream of events. Prints nothing and writes only checkpoints.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing as mp
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.progress import named, report
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EVALUATION_SEED
from aihf_control.learning.annotators import Annotator, WaitingEnded
from aihf_control.learning.evaluation import RewardEvaluator, greedy_returns, group_columns
from aihf_control.learning.task import Progress, Task
from aihf_control.models.reward_state import RewardState
from aihf_control.training.checkpoint import Checkpoints, Saved, restore
from aihf_control.training.events import Evaluated, Event, Finished, Notice, Paused, Tick
from aihf_control.training.shared import SharedFolder

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
        if getattr(self.cfg, "warmup", 0) < 0:
            raise BadInput(f"--warmup must be at least 0, got {self.cfg.warmup}")
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
class CheckpointPlace:
    """The folder of a worker's checkpoints, and the minutes from one to the next."""

    folder: Path
    minutes: float = 3.0
    shared: Path | None = None
    """Folder of clones and rewards that runs on the same data share; by default one of this worker alone."""


def train_lanes(
    run_spec: RunSpec,
    dataset: Dataset,
    stop: Any = None,
    pause: Any = None,
    place: CheckpointPlace | None = None,
    annotator: Annotator | None = None,
) -> Iterator[Event]:
    """Train the run's lanes in this process.

    `stop.is_set()` ends training early, with the policy of that step. With a `place` training resumes from its last
    checkpoint, to the same bits as without an interruption, and `pause.is_set()` writes a checkpoint and stops. A
    method that asks while it trains asks the `annotator`, by default the dataset's synthetic teacher.
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
    store = place and shared_of(run_spec, dataset, place.shared or place.folder / "shared")
    for event in _train(run_spec, dataset, saved, stop, pause, checkpointer, annotator, store):
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
    run_spec: RunSpec,
    dataset: Dataset,
    saved: Saved | None,
    stop: Any,
    pause: Any,
    checkpointer: _Checkpointer,
    annotator: Annotator | None,
    store: SharedFolder | None,
) -> Iterator[Event]:
    """Train from the start or a checkpoint until the end, a stop or a pause."""
    task = task_of(run_spec, dataset, annotator, lambda: _is_set(stop) or _is_set(pause) or _is_orphan(), store)
    evaluator = RewardEvaluator(dataset, len(run_spec.seeds), run_spec.device)
    if saved:
        restore(task, saved)
    steps, last_tick = methods.load(run_spec.method).train(task, run_spec.cfg), time.monotonic()
    step, progress, at = saved.step if saved else 0, next(steps), run_spec.evaluated_at()
    yield from (
        _replay_rows(saved.rows) if saved else [_evaluate(task, evaluator, progress, step, run_spec.final_episodes)]
    )
    reached: Progress | None = progress
    while step < run_spec.steps and not (_is_set(stop) and task.step == step):  # first restore the state
        if _is_set(pause):
            checkpointer.write(task, now=True)
            yield Paused(run_spec.seeds, step)
            return
        reached = _advance(steps)
        if reached is None and not _is_set(stop):
            yield Paused(run_spec.seeds, step)
            return
        if reached is None:
            break
        step, progress = step + 1, reached
        if time.monotonic() - last_tick > TICK_EVERY:
            last_tick = time.monotonic()
            yield Tick(run_spec.seeds, step)
        if step < run_spec.steps:
            if step in at:
                yield _evaluate(task, evaluator, progress, step, run_spec.eval_episodes)
            checkpointer.write(task)
    if step < run_spec.steps and reached is not None:
        checkpointer.write(task, now=True)
    if step:
        yield _evaluate(task, evaluator, progress, step, run_spec.final_episodes)
    policy = {name: t.detach().cpu() for name, t in progress.policy.state_dict().items()}
    yield Finished(run_spec.seeds, step, policy, progress.reward.export() if progress.reward else None)


def _advance(steps: Iterator[Progress]) -> Progress | None:
    """Return what the next iteration yields, or None if the run was to pause or to stop while it waited for answers.

    The iteration is then half done, and nothing of it is saved: a resumed run does it anew and finds the answers.
    """
    try:
        return next(steps)
    except WaitingEnded:
        return None


def _is_set(event: Any) -> bool:
    return bool(event and event.is_set())


def _is_orphan() -> bool:
    """Return whether the process that started this one has ended."""
    parent = mp.parent_process()
    return parent is not None and not parent.is_alive()


def task_of(
    run_spec: RunSpec,
    dataset: Dataset,
    annotator: Annotator | None = None,
    ended: Callable[[], bool] = lambda: False,
    store: SharedFolder | None = None,
) -> Task:
    """Return the task of a run, with no training done."""
    dtype = getattr(torch, run_spec.products)
    sizes = run_spec.demos, run_spec.pairs
    return Task(dataset, run_spec.seeds, *sizes, run_spec.device, dtype, annotator, ended, store)


def shared_of(run_spec: RunSpec, dataset: Dataset, folder: Path) -> SharedFolder:
    """Return the folder in which this run shares clones and rewards with others."""
    sizes, computed = (run_spec.demos, run_spec.pairs), (run_spec.device, run_spec.products)
    return SharedFolder(folder, dataset, run_spec.seeds, sizes, computed)


def _replay_rows(rows: list[dict[str, Any]]) -> Iterator[Evaluated]:
    """Yield the evaluations of a checkpoint, step by step."""
    for step, together in itertools.groupby(rows, lambda row: row["step"]):
        yield Evaluated(step, list(together))


def _evaluate(task: Task, evaluator: RewardEvaluator, progress: Progress, step: int, n: int) -> Evaluated:
    with named("first evaluation" if step == 0 else "evaluation"):
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
        report("evaluating the reward", 0, 1)
        columns["pair_accuracy"] = evaluator.accuracy(progress.reward)
        columns["rank_correlation"] = evaluator.rank_correlation(progress.reward)
        columns |= evaluator.group_columns(progress.reward)
    return columns | {name: value.tolist() for name, value in progress.info.items()}
