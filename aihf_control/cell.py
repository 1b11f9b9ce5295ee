"""One cell of a benchmark: a method on a task, all its seeds as lanes.

What happens comes out as a stream of events; nothing here prints or writes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.checkpoint import Checkpoints, Saved, restore
from aihf_control.dataset import Dataset
from aihf_control.environments import EVALUATION_SEED
from aihf_control.evaluate import RewardJudge, greedy_returns
from aihf_control.files import BadInput
from aihf_control.task import Progress, Task

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Cell:
    """All that determines a run's numbers."""

    method: str
    cfg: Any
    """The method's `Config`."""
    seeds: tuple[int, ...]
    demos: int = 1
    pairs: int = 200
    steps: int = 25_000
    evaluations: int = 8
    """How often the policy is evaluated on the way, evenly spaced."""
    eval_episodes: int = 5
    final_episodes: int = 20
    device: str = "cpu"
    products: str = "float32"
    """Type of the inner matrix products: float32 or bfloat16."""

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("steps", "evaluations", "eval_episodes", "final_episodes")}
        for name, n in {"seeds": len(self.seeds), **counts}.items():
            if n < 1:
                raise BadInput(f"--{name.replace('_', '-')} {n}: give at least 1")
        if not 0 <= min(self.seeds) <= max(self.seeds) < EVALUATION_SEED or len(set(self.seeds)) < len(self.seeds):
            raise BadInput(f"seeds {self.seeds}: give different ones, from 0 up and below {EVALUATION_SEED}")

    @property
    def on_cpu(self) -> bool:
        """Whether its products are those of `kernel.py`, where that can be had."""
        return self.device == "cpu"

    def evaluated_at(self) -> set[int]:
        return {round(self.steps * i / self.evaluations) for i in range(1, self.evaluations + 1)}


@dataclasses.dataclass(frozen=True)
class Tick:
    """A sign of life: `step` iterations are done by the lanes of `seeds`."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """One row a lane: seed, step, returns of the episodes, reward quality, the method's scalars."""

    step: int
    rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Finished:
    """What the lanes of `seeds` learned: the state of policy and reward, lanes first."""

    seeds: tuple[int, ...]
    step: int
    policy: dict[str, Tensor]
    reward: dict[str, Tensor] | None


@dataclasses.dataclass(frozen=True)
class Failed:
    """A process could not go on: bad input, or a traceback of ours."""

    message: str
    bad_input: bool


@dataclasses.dataclass(frozen=True)
class Paused:
    """The lanes of `seeds` were asked to leave off; what they need to go on is on the disk."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Notice:
    """Something that a user should know, and that stops nothing."""

    message: str


Event = Tick | Evaluated | Finished | Failed | Paused | Notice


@dataclasses.dataclass(frozen=True)
class Home:
    """Where a process keeps its states, and how often it writes one."""

    folder: Path
    minutes: float = 3.0


def work(
    cell: Cell, dataset: Dataset, stop: Any = None, pause: Any = None, home: Home | None = None
) -> Iterator[Event]:
    """Trains the cell's lanes in this process.

    `stop.is_set()` ends it early, with what there is. With a `home` it goes on from the state that it finds there, to
    the same bits as if it had never left off; `pause.is_set()` makes it write one and leave off.
    """
    keeper, notices = _Keeper(home, cell.steps), []
    done = keeper.kept and keeper.kept.finished(notices.append)
    if done:
        yield from _told(done.rows)
        yield Finished(cell.seeds, done.step, **done.state)
        return
    saved = keeper.kept and keeper.kept.last(notices.append)
    yield from map(Notice, notices)
    for event in _train(cell, dataset, saved, stop, pause, keeper):
        keeper.hear(event)
        yield event


class _Keeper:
    """Remembers what was told, and writes a state when one is due. Without a home it does neither."""

    def __init__(self, home: Home | None, steps: int):
        self.steps = steps
        self.kept = Checkpoints(home.folder) if home else None
        self.seconds = 60 * home.minutes if home else math.inf
        self.rows: list[dict[str, Any]] = []
        self.last = time.monotonic()

    def hear(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self.rows += event.rows
        if self.kept and isinstance(event, Finished) and event.step == self.steps:
            self.kept.finish(event.step, self.rows, {"policy": event.policy, "reward": event.reward})

    def write(self, task: Task, now: bool = False) -> None:
        """Before a method's loop has begun there is nothing to write."""
        if self.kept and task.step and (now or time.monotonic() - self.last >= self.seconds):
            self.kept.save(task.step, self.rows, task)
            self.last = time.monotonic()


def _train(
    cell: Cell, dataset: Dataset, saved: Saved | None, stop: Any, pause: Any, keeper: _Keeper
) -> Iterator[Event]:
    """From the start, or from a saved state, to the end, to a stop, or to a pause."""
    task = Task(dataset, cell.seeds, cell.demos, cell.pairs, cell.device, getattr(torch, cell.products))
    judge = RewardJudge(dataset, len(cell.seeds), cell.device)
    if saved:
        restore(task, saved)
    steps, last_tick = methods.load(cell.method).train(task, cell.cfg), time.monotonic()
    step, progress, at = saved.step if saved else 0, next(steps), cell.evaluated_at()
    yield from _told(saved.rows) if saved else [_evaluate(task, judge, progress, step, cell.final_episodes)]
    while step < cell.steps and not (stop and stop.is_set() and task.step == step):  # a state is first taken up
        if pause and pause.is_set():
            keeper.write(task, now=True)
            yield Paused(cell.seeds, step)
            return
        step, progress = step + 1, next(steps)
        if time.monotonic() - last_tick > 0.5:
            last_tick = time.monotonic()
            yield Tick(cell.seeds, step)
        if step < cell.steps:
            if step in at:
                yield _evaluate(task, judge, progress, step, cell.eval_episodes)
            keeper.write(task)
    if step < cell.steps:
        keeper.write(task, now=True)
    if step:
        yield _evaluate(task, judge, progress, step, cell.final_episodes)
    net = getattr(progress.reward, "net", None)
    yield Finished(cell.seeds, step, _state(progress.policy), None if net is None else _state(net))


def _told(rows: list[dict[str, Any]]) -> Iterator[Evaluated]:
    """The evaluations that a state remembers, step by step."""
    for step, together in itertools.groupby(rows, lambda row: row["step"]):
        yield Evaluated(step, list(together))


def _evaluate(task: Task, judge: RewardJudge, progress: Progress, step: int, n: int) -> Evaluated:
    returns = greedy_returns(progress.policy, task.spec, n)
    columns: dict[str, Any] = {"env_steps": task.n_steps.tolist(), "labels": [task.n_labels] * len(returns)}
    if task.labels_right is not None:
        columns["labels_right"] = task.labels_right
    if progress.reward is not None:
        columns["pair_accuracy"] = judge.accuracy(progress.reward)
        columns["rank_correlation"] = judge.rank_correlation(progress.reward)
    columns |= {name: value.tolist() for name, value in progress.info.items()}
    rows = [
        {"seed": seed, "step": step, "return": float(r.mean()), "returns": r.tolist()}
        | {name: float(column[i]) for name, column in columns.items()}
        for i, (seed, r) in enumerate(zip(task.dims.seeds, returns, strict=True))
    ]
    return Evaluated(step, rows)


def _state(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu() for name, t in net.state_dict().items()}
