"""The time that a run still takes, from the rate of its iterations after the warm-up and from its evaluations."""

from __future__ import annotations

import dataclasses
import time

from aihf_control.training.events import Evaluated, Event, Finished, Phase, Tick
from aihf_control.training.run import RunSpec

EVALUATIONS = ("first evaluation", "evaluation")  # names of these phases
LEAST = 2.0  # seconds of iterations from which a rate is taken


@dataclasses.dataclass
class _Worker:
    """The clock of one worker: what it does now, and how long its iterations and evaluations take."""

    phase: Phase | None = None
    step: int = 0
    settled: int | None = None
    """The first iteration after the warm-up that was seen, from which the rate is counted."""
    spent: float = 0.0
    """Seconds of the iterations since then, without evaluations."""
    last: float = 0.0
    evaluating: float | None = None
    """When the present evaluation began."""
    first_evaluation: float = 0.0
    later_evaluation: float = 0.0
    finished: bool = False


class Pace:
    """Estimates of what each worker of a run is doing, and of the seconds until the slowest has finished.

    Until iterations after the warm-up have been timed, the time left is that of an estimate of the whole run.
    """

    def __init__(self, run_spec: RunSpec, estimate: float | None = None):
        self.run_spec, self.estimate, self.begun = run_spec, estimate, time.monotonic()
        self.warmup = getattr(run_spec.cfg, "warmup", 0)
        self.at = sorted(run_spec.evaluated_at() - {run_spec.steps})
        self.workers: dict[int, _Worker] = {}  # by their first seed

    def observe(self, event: Event) -> None:
        """Take note of an event."""
        now = time.monotonic()
        if isinstance(event, Phase):
            worker = self._worker(event.seeds[0])
            if event.name in EVALUATIONS and worker.evaluating is None:
                self._count(worker, worker.step, now)
                worker.evaluating = now
            worker.phase = event
        elif isinstance(event, Tick):
            worker = self._worker(event.seeds[0])
            worker.phase = None
            self._count(worker, event.step, now)
        elif isinstance(event, Evaluated):
            self._end_evaluation(self._worker(event.rows[0]["seed"]), event.step, now)
        elif isinstance(event, Finished):
            self._worker(event.seeds[0]).finished = True

    def _worker(self, seed: int) -> _Worker:
        return self.workers.setdefault(seed, _Worker())

    def _count(self, worker: _Worker, step: int, now: float) -> None:
        """Add the time since the last iteration that was seen, if the warm-up is over."""
        if worker.settled is not None and worker.evaluating is None:
            worker.spent += now - worker.last
        elif worker.settled is None and step > self.warmup + 1:
            worker.settled = step
        worker.step, worker.last = step, now

    def _end_evaluation(self, worker: _Worker, step: int, now: float) -> None:
        if worker.evaluating is not None:
            took = now - worker.evaluating
            worker.first_evaluation = worker.first_evaluation or took
            worker.later_evaluation = took if step else worker.later_evaluation
        worker.step, worker.last, worker.evaluating, worker.phase = step, now, None, None

    @property
    def slowest(self) -> _Worker | None:
        """The worker that has most left to do; None before the first event."""
        return min(self.workers.values(), key=lambda w: (w.finished, w.step), default=None)

    def left(self) -> float | None:
        """Return the seconds until the run ends, None if that is not known."""
        elapsed, worker = time.monotonic() - self.begun, self.slowest
        if worker and worker.settled is not None and worker.spent > LEAST and worker.step > worker.settled:
            done = worker.step - worker.settled
            return worker.spent / done * (self.run_spec.steps - worker.step) + self._evaluations_left(worker)
        if self.estimate is None or elapsed >= self.estimate:
            return None
        return self.estimate - elapsed

    def _evaluations_left(self, worker: _Worker) -> float:
        """Return the seconds of the evaluations to come; the last has as many episodes as the first."""
        c = self.run_spec
        share = min(1.0, c.eval_episodes / c.final_episodes)
        each = worker.later_evaluation or share * worker.first_evaluation
        return each * sum(step > worker.step for step in self.at) + worker.first_evaluation

    def doing(self) -> str:
        """Return what the slowest worker does: "cloning 1,200 of 5,000", "training 300 of 25,000"."""
        worker, steps = self.slowest, self.run_spec.steps
        if worker is None:
            return "starting"
        if worker.phase and worker.phase.total > 1:
            return f"{worker.phase.name} {worker.phase.done:,} of {worker.phase.total:,}"
        if worker.phase:
            return worker.phase.name
        if 0 < worker.step <= self.warmup:
            return f"warm-up {worker.step:,} of {self.warmup:,}"
        return f"training {worker.step:,} of {steps:,}"
