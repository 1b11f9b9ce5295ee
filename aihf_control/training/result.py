"""What a cell gives, and `train`, the Python door to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.core.statistics import normalised
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.models.lanes import Dims
from aihf_control.models.saved import TrainedPolicy, TrainedReward, policy_from, reward_from
from aihf_control.training.run import Evaluated, Event, Failed, Finished, RunSpec, Tick, train_lanes
from aihf_control.training.workers import run_workers

Array = np.ndarray


class Collector:
    """Gathers the events of a cell, in whatever order its processes send them."""

    def __init__(self, cell: RunSpec, dataset: Dataset):
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
        elif isinstance(event, Finished):
            self.finished.append(event)

    def result(self) -> Result:
        hands = sorted(self.finished, key=lambda f: self.cell.seeds.index(f.seeds[0]))
        spec = spec_of(self.dataset.meta["env"], **self.dataset.meta["options"])
        seeds, dims = self.cell.seeds, Dims(self.cell.seeds, spec.n_obs, spec.n_act)
        policy = TrainedPolicy(spec, seeds, policy_from(_join([h.policy for h in hands]), dims))
        states, reward = [h.reward for h in hands if h.reward is not None], None
        if len(states) == len(hands):  # a process that was stopped at its start has learned none
            reward = TrainedReward(spec, seeds, reward_from(_join(states), dims, self.cell.cfg.reward.alive_bound))
        frame = pd.DataFrame(self.rows).sort_values(["seed", "step"], kind="stable", ignore_index=True)
        return Result(self.cell, self.dataset, spec, frame, policy, reward)


def _join(states: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.cat([torch.as_tensor(s[name]) for s in states]) for name in states[0]}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a cell gave."""

    cell: RunSpec
    dataset: Dataset
    spec: EnvSpec
    frame: pd.DataFrame
    """One row a lane and evaluation: seed, step, return, pair_accuracy, rank_correlation, ..."""
    policy: TrainedPolicy
    reward: TrainedReward | None

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
        """Mean of each lane's last `n` evaluations, (L,); NaN where it diverged among them."""
        return self.frame.groupby("seed")["return"].apply(lambda r: r.tail(n).mean(skipna=False)).to_numpy()

    def score(self, returns: Array) -> Array:
        """Returns as (return - random) / (expert - random)."""
        meta = self.dataset.meta
        return normalised(np.asarray(returns), np.mean(meta["random_returns"]), np.mean(meta["expert_returns"]))


def train(
    method: str,
    dataset: Dataset,
    seeds: int | Sequence[int] = 5,
    steps: int | None = None,
    cfg: Any = None,
    workers: int = 1,
    **cell: Any,
) -> Result:
    """Trains `method` on `dataset` for some seeds and returns what came out.

    With `workers` above 1 the seeds are dealt to that many processes; a script that asks for it needs the usual
    `if __name__ == "__main__":`. With 1 all happens here, on one thread. `cfg` is the method's `Config`; `cell` takes
    the fields of `RunSpec` (demos, pairs, evaluations, device, ...). Raises BadInput.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    cfg = cfg or methods.load(method).Config()
    cfg = cfg if steps is None else dataclasses.replace(cfg, steps=steps)  # phases are spread over them
    whole = RunSpec(method, cfg, seeds, steps=cfg.steps, **cell)
    collector = Collector(whole, dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for event in run_workers(whole, dataset, workers) if workers > 1 else train_lanes(whole, dataset):
            collector.add(event)
    finally:
        torch.set_num_threads(threads)
    return collector.result()
