"""Snapshots of the policies of a training on the true reward, and the selection of graded levels among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.environments.gym import EnvSpec
from aihf_control.experts.true_reward import Learner
from aihf_control.learning.evaluation import expert_returns, greedy_returns
from aihf_control.models.expert import Expert, expert_of

SNAPSHOT_SEED = 40_000  # episodes of snapshots start from other seeds than those of training and final evaluation
REESTIMATED = 5  # best snapshots by the first estimate that are estimated again
SEPARATION = 0.1  # smallest difference between two levels, as a share of the expert's return above random


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Averaged policy of one lane after `step` updates."""

    seed: int
    step: int
    policy: Expert
    mean: float
    """Mean of its greedy returns."""
    std: float
    """Standard deviation of its greedy returns."""


class Snapshots:
    """Snapshots of all lanes, taken at each evaluation, and the returns of their episodes."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], every: int = 10_000, episodes: int = 5):
        self.spec, self.seeds, self.every, self.episodes = spec, tuple(seeds), every, episodes
        self.entries: list[Snapshot] = []
        self.rows: list[dict[str, Any]] = []

    def evaluate(self, step: int, learner: Learner) -> np.ndarray:
        """Evaluate both actors of each lane and add a snapshot per lane; return mean returns of the averages, (L,)."""
        raw, average = (
            greedy_returns(policy, self.spec, self.episodes, SNAPSHOT_SEED)
            for policy in (learner.policy, learner.average)
        )
        for actor, returns in (("raw", raw), ("average", average)):
            for seed, row in zip(self.seeds, returns, strict=True):
                self._add_rows(seed, step, actor, row)
        for i, seed in enumerate(self.seeds):
            self.entries.append(Snapshot(seed, step, expert_of(learner.average, i), *_mean_and_std(average[i])))
        return average.mean(1)

    def evaluate_expert(self, step: int, expert: Expert) -> np.ndarray:
        """Evaluate a policy of the first seed and add its snapshot; return its returns, (episodes,)."""
        returns = expert_returns(expert, self.spec, self.episodes, SNAPSHOT_SEED)
        self._add_rows(self.seeds[0], step, "average", returns)
        self.entries.append(Snapshot(self.seeds[0], step, expert, *_mean_and_std(returns)))
        return returns

    def _add_rows(self, seed: int, step: int, actor: str, returns: np.ndarray) -> None:
        self.rows += [
            {"seed": seed, "step": step, "actor": actor, "episode": e, "return": float(r)}
            for e, r in enumerate(returns)
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row per episode."""
        return pd.DataFrame(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return rows and snapshots as plain containers and tensors."""
        return {"rows": self.rows, "snapshots": [dataclasses.asdict(s) for s in self.entries]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows = list(state["rows"])
        self.entries = [Snapshot(**{**s, "policy": Expert(**s["policy"])}) for s in state["snapshots"]]

    def select_levels(
        self, shares: dict[str, float], random: float, play: Callable[[Expert], np.ndarray]
    ) -> dict[str, Snapshot]:
        """Return the snapshot with the highest mean minus standard deviation as "expert", and one for each level.

        The target of a level is its share of the way from `random`, the return of random actions, to the expert's. Its
        snapshot is the one with the smallest distance of the mean from the target plus half the standard deviation.
        `play(policy)` returns the returns by which the five best candidates are compared. A level is left out if its
        mean differs from that of a higher level by less than 10 % of the expert's return above random.
        """
        best = min(self._reestimate(_unsteadiness, play), key=_unsteadiness)
        levels, scale = {"expert": best}, best.mean - random
        for level, share in shares.items():

            def distance(s: Snapshot, target: float = random + share * scale) -> float:
                return abs(s.mean - target) + s.std / 2

            closest = min(self._reestimate(distance, play), key=distance)
            if all(s.mean - closest.mean >= SEPARATION * scale for s in levels.values()):
                levels[level] = closest
        return levels

    def _reestimate(self, order: Callable[[Snapshot], float], play: Callable[[Expert], np.ndarray]) -> list[Snapshot]:
        """Return the first snapshots in an order, with new means and standard deviations."""
        candidates = sorted(self.entries, key=order)[:REESTIMATED]
        found = (_mean_and_std(play(s.policy)) for s in candidates)
        return [dataclasses.replace(s, mean=m, std=std) for s, (m, std) in zip(candidates, found, strict=True)]


def _mean_and_std(returns: np.ndarray) -> tuple[float, float]:
    return float(returns.mean()), float(returns.std())


def _unsteadiness(s: Snapshot) -> float:
    """Return the standard deviation minus the mean of the returns, which is lowest for the best steady policy."""
    return s.std - s.mean
