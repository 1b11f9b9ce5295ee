"""The result of a run, and `train`, which makes one from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.progress import listening
from aihf_control.core.statistics import estimate, late_mean, normalised
from aihf_control.core.text import count
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.learning.annotators import Annotator
from aihf_control.models.lanes import Dims
from aihf_control.models.reward_state import join_lanes
from aihf_control.models.saved import TrainedPolicy, TrainedReward, policy_from
from aihf_control.training.events import Evaluated, Event, Failed, Finished, Paused, Phase, Tick
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes
from aihf_control.training.workers import run_workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of a run."""

    run_spec: RunSpec
    dataset: Dataset
    spec: EnvSpec
    frame: pd.DataFrame
    """One row a lane and evaluation: seed, step, return, pair_accuracy, rank_correlation, ..."""
    policy: TrainedPolicy
    reward: TrainedReward | None

    def __repr__(self) -> str:
        c, score = self.run_spec, self.score(self.final())
        about = f"{c.method} on {self.spec.id}, {count(len(c.seeds), 'seed')}, {count(c.steps, 'iteration')}"
        return f"Result({about}, score {estimate(score[np.isfinite(score)]) if np.isfinite(score).any() else '-'})"

    def best(self) -> int:
        """Return the seed whose last policy has the highest mean return. Its return is then biased upwards."""
        returns = self.final()
        if not np.isfinite(returns).any():
            raise BadInput("every seed diverged; there is no best one")
        return sorted(self.run_spec.seeds)[int(np.nanargmax(returns))]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return a figure of every seed's return over iterations; write it as a PNG, too, if a `path` is given."""
        from aihf_control.training.summary import curves_of, draw_curves  # which imports this module

        if path is not None:
            draw_curves(self, Path(path))
        return curves_of(self)

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
