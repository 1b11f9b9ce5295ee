"""A run split over several worker processes of one thread each."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing as mp
import pickle
import queue
import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.progress import listening
from aihf_control.data.dataset import Dataset
from aihf_control.environments import watchdog
from aihf_control.environments.modules import allowed_modules, set_allowed_modules
from aihf_control.learning.annotators import Annotator
from aihf_control.models.device import use_one_thread
from aihf_control.training.events import Event, Failed, Finished, Paused, Phase
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes


def run_workers(
    run_spec: RunSpec,
    dataset: Dataset,
    workers: int,
    stop: Any = None,
    pause: Any = None,
    place: CheckpointPlace | None = None,
    step_timeout: float = 0.0,
    annotator: Annotator | None = None,
) -> Iterator[Event]:
    """Split the seeds across worker processes, each with its own checkpoints, and yield the events of all.

    Every process gets a copy of the `annotator`. Raises BadInput if it cannot be sent there, and EnvTimeout if a call
    into the environment takes longer than `step_timeout` seconds (0: no limit).
    """
    parts = [tuple(p.tolist()) for p in np.array_split(np.array(run_spec.seeds), min(workers, len(run_spec.seeds)))]
    _check_portable(annotator)
    pool = _Pool([dataclasses.replace(run_spec, seeds=p) for p in parts], dataset, place, annotator)
    try:
        while pool.running:
            pool.forward(stop, pause)
            if any(watchdog.overdue(clock, step_timeout) for clock in pool.clocks):
                raise watchdog.EnvTimeout(watchdog.timeout_message(dataset.meta["env"], step_timeout))
            event = pool.next_event()
            if event is None:
                continue
            yield event
            if isinstance(event, Failed):
                return
            if isinstance(event, Finished | Paused):
                del pool.running[event.seeds]
    finally:
        pool.close()


class _Pool:
    """The worker processes of a run, one for each specification of a part of its seeds."""

    def __init__(
        self, specs: Sequence[RunSpec], dataset: Dataset, place: CheckpointPlace | None, annotator: Annotator | None
    ):
        context = mp.get_context("spawn")
        self.events, self.stopping, self.pausing = context.Queue(), context.Event(), context.Event()
        self.clocks = [context.Value("d", 0.0, lock=False) for _ in specs]
        self.running: dict[tuple[int, ...], Any] = {}
        for spec, clock in zip(specs, self.clocks, strict=True):
            signals = self.events, self.stopping, self.pausing
            args = (spec, dataset, *signals, _place_of(place, spec.seeds), annotator, allowed_modules(), clock)
            self.running[spec.seeds] = context.Process(target=_worker, args=args, daemon=True)
        self.processes = list(self.running.values())
        with _signals_blocked():  # the workers inherit that for good
            for process in self.processes:
                process.start()

    def forward(self, stop: Any, pause: Any) -> None:
        """Pass on a request to stop or to pause."""
        for asked, event in ((stop, self.stopping), (pause, self.pausing)):
            if asked and asked.is_set():
                event.set()

    def next_event(self) -> Event | None:
        """Return the next event of any worker, None if there is none yet, or Failed if a worker has died."""
        try:
            return self.events.get(timeout=0.5)
        except queue.Empty:
            dead = [p.exitcode for p in self.running.values() if p.exitcode is not None]
            return Failed(f"a training process died (exit code {dead[0]})", bad_input=False) if dead else None

    def close(self) -> None:
        """Wait for the workers to end if all have finished; otherwise kill them."""
        for process in self.processes:
            process.kill() if self.running else process.join()


def _check_portable(annotator: Annotator | None) -> None:
    """Raise BadInput if the annotator cannot be sent to another process, as a function inside a function cannot."""
    try:
        pickle.dumps(annotator)
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise BadInput(
            f"the annotator cannot be sent to worker processes ({e}); use a function of a module, or 1 worker"
        ) from e


def _place_of(place: CheckpointPlace | None, seeds: tuple[int, ...]) -> CheckpointPlace | None:
    return place and dataclasses.replace(place, folder=place.folder / str(seeds[0]))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM while the workers start.

    Ctrl-C is sent to the whole group of processes, but only the parent decides what it means: workers keep the
    signals blocked, and the parent receives them when the context ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker(
    run_spec: RunSpec,
    dataset: Dataset,
    events: Any,
    stop: Any,
    pause: Any,
    place: CheckpointPlace | None,
    annotator: Annotator | None,
    modules: tuple[str, ...],
    clock: Any,
) -> None:
    use_one_thread()
    set_allowed_modules(modules)
    watchdog.share_clock(clock)
    parent = mp.parent_process()
    assert parent is not None
    try:
        with listening(lambda *phase: events.put(Phase(run_spec.seeds, *phase))):
            for event in train_lanes(run_spec, dataset, stop, pause, place, annotator):
                if not parent.is_alive():  # killed, so nobody reads the queue any more
                    events.cancel_join_thread()
                    return
                events.put(_portable(event))
    except BadInput as e:
        events.put(Failed(str(e), bad_input=True))
    except Exception:
        events.put(Failed(traceback.format_exc(), bad_input=False))


def _portable(event: Event) -> Event:
    """Replace tensors by arrays: torch would send handles to shared memory that are lost with the sender."""
    if not isinstance(event, Finished):
        return event
    reward = event.reward and dataclasses.replace(event.reward, tensors=_arrays(event.reward.tensors))
    return dataclasses.replace(event, policy=_arrays(event.policy), reward=reward)


def _arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: t.numpy() for name, t in tensors.items()}
