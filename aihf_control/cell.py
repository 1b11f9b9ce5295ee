"""One cell of a benchmark: a method on a task, all its seeds as lanes, dealt over processes.

`train` is the Python door to it. What happens comes out as a stream of events; nothing here prints or writes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import multiprocessing as mp
import os
import queue
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.data import Dataset
from aihf_control.environments import EnvSpec, spec_of
from aihf_control.evaluate import RewardJudge, greedy_returns, normalised
from aihf_control.files import BadInput
from aihf_control.lanes import Dims
from aihf_control.policies import TrainedPolicy, policy_from
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
    steps: int = 60_000
    evaluations: int = 12
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
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise BadInput(f"seeds {self.seeds}: give different ones, from 0 up")

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


Event = Tick | Evaluated | Finished | Failed


def work(cell: Cell, dataset: Dataset, stop: Any = None) -> Iterator[Event]:
    """Trains the cell's lanes in this process. `stop.is_set()` ends it early, with what there is."""
    products = getattr(torch, cell.products)
    task = Task(dataset, cell.seeds, cell.demos, cell.pairs, cell.device, products)
    judge = RewardJudge(dataset, len(cell.seeds), cell.device)
    steps, last_tick = methods.load(cell.method).train(task, cell.cfg), time.monotonic()
    at = cell.evaluated_at()
    step, progress = 0, next(steps)
    yield _evaluate(task, judge, progress, step, cell.final_episodes)
    while step < cell.steps and not (stop and stop.is_set()):
        step, progress = step + 1, next(steps)
        if time.monotonic() - last_tick > 0.5:
            last_tick = time.monotonic()
            yield Tick(cell.seeds, step)
        if step in at and step < cell.steps:
            yield _evaluate(task, judge, progress, step, cell.eval_episodes)
    yield _evaluate(task, judge, progress, step, cell.final_episodes)
    net = getattr(progress.reward, "net", None)
    yield Finished(cell.seeds, step, _state(progress.policy), None if net is None else _state(net))


def deal(cell: Cell, dataset: Dataset, workers: int, stop: Any = None) -> Iterator[Event]:
    """The same over several processes of one thread each, the lanes shared out among them."""
    hands = [tuple(h.tolist()) for h in np.array_split(np.array(cell.seeds), min(workers, len(cell.seeds)))]
    context = mp.get_context("spawn")
    events, stopping = context.Queue(), context.Event()
    processes = [
        context.Process(
            target=_process, args=(dataclasses.replace(cell, seeds=h), dataset, events, stopping), daemon=True
        )
        for h in hands
    ]
    for p in processes:
        p.start()
    running = len(processes)
    try:
        while running:
            if stop and stop.is_set():
                stopping.set()
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                dead = [p for p in processes if p.exitcode not in (None, 0)]
                if dead:
                    yield Failed(f"a training process died (exit code {dead[0].exitcode})", bad_input=False)
                    return
                continue
            yield event
            if isinstance(event, Failed):
                return
            running -= isinstance(event, Finished)
    finally:
        for p in processes:
            p.terminate() if running else p.join()


def _process(cell: Cell, dataset: Dataset, events: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        for event in work(cell, dataset, stop):
            events.put(_portable(event))
    except BadInput as e:
        events.put(Failed(str(e), bad_input=True))
    except Exception:
        events.put(Failed(traceback.format_exc(), bad_input=False))


def keep_freed_memory() -> None:
    """Tells glibc to keep large blocks that are freed rather than give them back: every update frees and takes the same
    ones, and fetching them from the kernel anew costs about a tenth of it. Does nothing where libc is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def _portable(event: Event) -> Event:
    """Tensors cross processes as arrays: torch would send handles to shared memory that die with the sender."""
    if not isinstance(event, Finished):
        return event
    arrays = [None if d is None else {k: v.numpy() for k, v in d.items()} for d in (event.policy, event.reward)]
    return Finished(event.seeds, event.step, *arrays)  # pyright: ignore[reportArgumentType]


def _evaluate(task: Task, judge: RewardJudge, progress: Progress, step: int, n: int) -> Evaluated:
    returns = greedy_returns(progress.policy, task.spec, n)
    columns: dict[str, Any] = {"env_steps": [task.n_steps] * len(returns), "labels": [task.n_labels] * len(returns)}
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


# ------------------------------------------------------------------------------------------------------- what came out


class Collector:
    """Gathers the events of a cell, in whatever order its processes send them."""

    def __init__(self, cell: Cell, dataset: Dataset):
        self.cell, self.dataset = cell, dataset
        self.rows: list[dict[str, Any]] = []
        self.finished: list[Finished] = []
        self.steps = dict.fromkeys(cell.seeds, 0)

    def add(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise BadInput(event.message) if event.bad_input else RuntimeError(event.message)
        if isinstance(event, Evaluated):
            self.rows += event.rows
            self.steps |= {row["seed"]: event.step for row in event.rows}
        elif isinstance(event, Tick):
            self.steps |= dict.fromkeys(event.seeds, event.step)
        else:
            self.finished.append(event)

    def result(self) -> Result:
        hands = sorted(self.finished, key=lambda f: self.cell.seeds.index(f.seeds[0]))
        spec = spec_of(self.dataset.meta["env"], **self.dataset.meta["options"])
        dims = Dims(self.cell.seeds, spec.n_obs, spec.n_act)
        policy = policy_from(_join([h.policy for h in hands]), dims)
        reward = None if hands[0].reward is None else _join([h.reward for h in hands if h.reward is not None])
        frame = pd.DataFrame(self.rows).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        return Result(self.cell, self.dataset, spec, frame, TrainedPolicy(spec, self.cell.seeds, policy), reward)


def _join(states: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.cat([torch.as_tensor(s[name]) for s in states]) for name in states[0]}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a cell gave."""

    cell: Cell
    dataset: Dataset
    spec: EnvSpec
    frame: pd.DataFrame
    """One row a lane and evaluation: seed, step, return, pair_accuracy, rank_correlation, ..."""
    policy: TrainedPolicy
    reward: dict[str, Tensor] | None

    def at(self, step: int) -> pd.DataFrame:
        """The rows of one step, a lane each, by seed."""
        return self.frame.loc[self.frame["step"] == step].drop_duplicates("seed", keep="last").set_index("seed")

    def start(self) -> Array:
        """Mean return of each lane's first policy, (L,)."""
        return self.at(0)["return"].to_numpy()

    def final(self) -> Array:
        """Mean return of each lane's last policy over its final episodes, (L,)."""
        return self.last()["return"].to_numpy()

    def last(self) -> pd.DataFrame:
        return self.frame.groupby("seed").tail(1).set_index("seed")

    def late(self, n: int = 5) -> Array:
        """Mean of each lane's last `n` evaluations, (L,)."""
        return self.frame.groupby("seed")["return"].apply(lambda r: r.tail(n).mean()).to_numpy()

    def score(self, returns: Array) -> Array:
        """Returns as (return - random) / (expert - random)."""
        meta = self.dataset.meta
        return normalised(np.asarray(returns), np.mean(meta["random_returns"]), np.mean(meta["expert_returns"]))


def default_workers(device: str, n_lanes: int) -> int:
    """One process a core on the CPU, one alone on an accelerator."""
    return min(len(os.sched_getaffinity(0)), n_lanes) if device == "cpu" else 1


def train(
    method: str,
    dataset: Dataset,
    seeds: int | Sequence[int] = 5,
    steps: int | None = None,
    cfg: Any = None,
    workers: int | None = None,
    **cell: Any,
) -> Result:
    """Trains `method` on `dataset` for some seeds and returns what came out.

    `cfg` is the method's `Config`; `cell` takes the fields of `Cell` (demos, pairs, evaluations, device, ...). With
    workers=1 everything happens in this process. Raises BadInput.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    cfg = cfg or methods.load(method).Config()
    whole = Cell(method, cfg, seeds, steps=cfg.steps if steps is None else steps, **cell)
    workers = workers or default_workers(whole.device, len(seeds))
    collector = Collector(whole, dataset)
    for event in deal(whole, dataset, workers) if workers > 1 else work(whole, dataset):
        collector.add(event)
    return collector.result()
