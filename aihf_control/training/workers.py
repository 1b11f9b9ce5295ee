"""A cell over several processes of one thread each, its lanes shared out among them."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing as mp
import queue
import signal
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.environments import watchdog
from aihf_control.environments.modules import allowed_modules, set_allowed_modules
from aihf_control.models.device import use_one_thread
from aihf_control.training.run import CheckpointPlace, Event, Failed, Finished, Paused, RunSpec, train_lanes


def run_workers(
    cell: RunSpec,
    dataset: Dataset,
    workers: int,
    stop: Any = None,
    pause: Any = None,
    home: CheckpointPlace | None = None,
    step_timeout: float = 0.0,
) -> Iterator[Event]:
    """`work` over several processes of one thread each, the lanes shared out, each with a home of its own.

    Raises EnvTimeout if a call into the environment takes longer than `step_timeout` seconds (0: no limit).
    """
    hands = [tuple(h.tolist()) for h in np.array_split(np.array(cell.seeds), min(workers, len(cell.seeds)))]
    context = mp.get_context("spawn")
    events, stopping, pausing = context.Queue(), context.Event(), context.Event()
    clocks = [context.Value("d", 0.0, lock=False) for _ in hands]
    inherited = [(allowed_modules(), clock) for clock in clocks]
    processes = [
        context.Process(
            target=_process,
            args=(dataclasses.replace(cell, seeds=h), dataset, events, stopping, pausing, _room(home, h), *more),
            daemon=True,
        )
        for h, more in zip(hands, inherited, strict=True)
    ]
    with _signals_blocked():  # the children inherit that for good
        for p in processes:
            p.start()
    waiting = dict(zip(hands, processes, strict=True))
    try:
        while waiting:
            if stop and stop.is_set():
                stopping.set()
            if pause and pause.is_set():
                pausing.set()
            if any(watchdog.overdue(clock, step_timeout) for clock in clocks):
                raise watchdog.EnvTimeout(watchdog.timeout_message(dataset.meta["env"], step_timeout))
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                dead = [p.exitcode for p in waiting.values() if p.exitcode is not None]
                if dead:
                    yield Failed(f"a training process died (exit code {dead[0]})", bad_input=False)
                    return
                continue
            yield event
            if isinstance(event, Failed):
                return
            if isinstance(event, Finished | Paused):
                del waiting[event.seeds]
    finally:
        for p in processes:
            p.kill() if waiting else p.join()


def _room(home: CheckpointPlace | None, seeds: tuple[int, ...]) -> CheckpointPlace | None:
    return home and dataclasses.replace(home, folder=home.folder / str(seeds[0]))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Ctrl-C reaches the whole group of processes, and the parent alone decides what it means: those that start here
    never hear of it, and the parent hears of it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _process(
    cell: RunSpec,
    dataset: Dataset,
    events: Any,
    stop: Any,
    pause: Any,
    home: CheckpointPlace | None,
    modules: tuple[str, ...],
    clock: Any,
) -> None:
    use_one_thread()
    set_allowed_modules(modules)
    watchdog.share_clock(clock)
    parent = mp.parent_process()
    assert parent is not None
    try:
        for event in train_lanes(cell, dataset, stop, pause, home):
            if not parent.is_alive():  # killed without a word: nobody waits for this any more
                events.cancel_join_thread()
                return
            events.put(_portable(event))
    except BadInput as e:
        events.put(Failed(str(e), bad_input=True))
    except Exception:
        events.put(Failed(traceback.format_exc(), bad_input=False))


def _portable(event: Event) -> Event:
    """Tensors cross processes as arrays: torch would send handles to shared memory that die with the sender."""
    if not isinstance(event, Finished):
        return event
    arrays = [None if d is None else {k: v.numpy() for k, v in d.items()} for d in (event.policy, event.reward)]
    return Finished(event.seeds, event.step, *arrays)  # pyright: ignore[reportArgumentType]
