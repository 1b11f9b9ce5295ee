"""The result of a run, and `train`, which makes one from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.progress import listening
from aihf_control.core.statistics import late_mean, normalised
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.learning.annotators import Annotator, as_annotator
from aihf_control.models.lanes import Dims
from aihf_control.models.reward_state import join_lanes
from aihf_control.models.saved import TrainedPolicy, TrainedReward, policy_from
from aihf_control.training.events import Evaluated, Event, Failed, Finished, Paused, Phase, Tick
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes
from aihf_control.training.workers import run_workers

Array = np.ndarray


class Collector:
    """Collects the events of a run, in whatever order its workers send them."""

    def __init__(self, run_spec: RunSpec, dataset: Dataset):
        self.run_spec, self.dataset = run_spec, dataset
        self.rows: list[dict[str, Any]] = []
        self.finished: list[Finished] = []
        self.paused = False
        self.steps = dict.fromkeys(run_spec.seeds, 0)

    def add(self, event: Event) -> None:
        """Add an event. Raises BadInput or RuntimeError for a worker that failed."""
        if isinstance(event, Failed):
            raise BadInput(event.message) if event.bad_input else RuntimeError(event.message)
        if isinstance(event, Evaluated):
            self.rows += event.rows
            self.steps |= {row["seed"]: event.step for row in event.rows}
        elif isinstance(event, Tick):
            self.steps |= dict.fromkeys(event.seeds, event.step)
        elif isinstance(event, Finished):
            self.finished.append(event)
        elif isinstance(event, Paused):
            self.paused = True

    def result(self) -> Result:
        """Join what the workers have finished."""
        parts = sorted(self.finished, key=lambda f: self.run_spec.seeds.index(f.seeds[0]))
        spec = spec_of(self.dataset.meta["env"], **self.dataset.meta["options"])
        seeds, dims = self.run_spec.seeds, Dims(self.run_spec.seeds, spec.n_obs, spec.n_act)
        weights = {name: torch.cat([torch.as_tensor(p.policy[name]) for p in parts]) for name in parts[0].policy}
        policy = TrainedPolicy(spec, seeds, policy_from(weights, dims))
        states = [p.reward for p in parts if p.reward is not None]
        # a worker that was stopped at its start has learned no reward
        reward = TrainedReward(spec, seeds, join_lanes(states)) if len(states) == len(parts) else None
        frame = pd.DataFrame(self.rows).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        return Result(self.run_spec, self.dataset, spec, frame, policy, reward)


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run."""

    run_spec: RunSpec
    dataset: Dataset
    spec: EnvSpec
    frame: pd.DataFrame
    """One row a lane and evaluation: seed, step, return, pair_accuracy, rank_correlation, ..."""
    policy: TrainedPolicy
    reward: TrainedReward | None

    def at(self, step: int) -> pd.DataFrame:
        """Return the rows of one step, a lane each, by seed."""
        return self.frame.loc[self.frame["step"] == step].drop_duplicates("seed", keep="last").set_index("seed")

    def start(self) -> Array:
        """Return the mean return of each lane's first policy, (L,)."""
        return self.at(0)["return"].to_numpy()

    def final(self) -> Array:
        """Return the mean return of each lane's last policy over its final episodes, (L,)."""
        return self.last()["return"].to_numpy()

    def last(self) -> pd.DataFrame:
        """Return the last row of each lane, by seed."""
        return self.frame.groupby("seed").tail(1).set_index("seed")

    def late(self) -> Array:
        """Return the mean of each lane's last evaluations, (L,); NaN for a lane that diverged in them."""
        lanes = (rows[["step", "return"]].to_numpy(np.float64) for _, rows in self.frame.groupby("seed"))
        return np.array([late_mean(*lane.T) for lane in lanes])

    def score(self, returns: Array) -> Array:
        """Normalise returns: (return - random) / (expert - random)."""
        meta = self.dataset.meta
        return normalised(np.asarray(returns), np.mean(meta["random_returns"]), np.mean(meta["expert_returns"]))


def train(
    method: str,
    dataset: Dataset,
    seeds: int | Sequence[int] = 5,
    steps: int | None = None,
    cfg: Any = None,
    workers: int = 1,
    on_event: Callable[[Event, Collector], Any] | None = None,
    annotator: Annotator | Callable[[Trajectory, Trajectory], float | None] | None = None,
    **settings: Any,
) -> Result:
    """Train `method` on `dataset` for some seeds and return the result.

    With `workers` above 1 the seeds are split across that many processes; a script that does so needs the usual
    `if __name__ == "__main__":`. With 1 everything runs in this process, on one thread. `cfg` is the method's `Config`,
    `on_event` is called at every event, and `settings` are fields of `RunSpec` (demos, pairs, evaluations, device,
    ...). `annotator` compares the segments of methods that ask while they train, in place of the dataset's teacher: a
    function of two segments (`Trajectory`) that returns 1 if the first is better, 0 if the second is, 0.5 for a tie, or
    None to skip the pair. Raises BadInput.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    cfg = cfg or methods.load(method).Config()
    cfg = cfg if steps is None else dataclasses.replace(cfg, steps=steps)  # phases are spread over the steps
    run_spec = RunSpec(method, cfg, seeds, steps=cfg.steps, **settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asked = None if annotator is None else as_annotator(annotator)
        result = train_run(run_spec, dataset, workers if workers > 1 else 0, on_event, annotator=asked)
    finally:
        torch.set_num_threads(threads)
    assert result is not None, "nothing pauses this run"
    return result


def train_run(
    run_spec: RunSpec,
    dataset: Dataset,
    workers: int,
    on_event: Callable[[Event, Collector], Any] | None = None,
    stop: Any = None,
    pause: Any = None,
    place: CheckpointPlace | None = None,
    step_timeout: float = 0.0,
    annotator: Annotator | None = None,
) -> Result | None:
    """Train a run to its result, in this process (`workers` 0) or in workers. Raises BadInput.

    Returns None for a run that was paused.
    """
    collector = Collector(run_spec, dataset)
    if workers:
        events = run_workers(run_spec, dataset, workers, stop, pause, place, step_timeout, annotator)
    else:
        events = train_lanes(run_spec, dataset, stop, pause, place, annotator)

    def take(event: Event) -> None:
        collector.add(event)
        if on_event:
            on_event(event, collector)

    with listening(lambda *phase: take(Phase(run_spec.seeds, *phase))):
        for event in events:
            take(event)
    return None if collector.paused else collector.result()
