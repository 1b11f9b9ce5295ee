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
from aihf_control.models.sb3 import Expert, expert_of

SNAPSHOT_SEED = 40_000  # episodes of snapshots start from other seeds than those of training and final evaluation
REESTIMATED = 5  # best snapshots by the first estimate that are estimated again


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Averaged policy of one lane after `step` updates."""

    seed: int
    step: int
    policy: Expert
    value: float
    """Mean minus standard deviation of its greedy returns."""


def estimate_value(returns: np.ndarray) -> float:
    """Return the mean minus the standard deviation of returns (n,), so that unsteady policies get a low value."""
    return float(returns.mean() - returns.std())


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
            self.entries.append(Snapshot(seed, step, expert_of(learner.average, i), estimate_value(average[i])))
        return average.mean(1)

    def evaluate_expert(self, step: int, expert: Expert) -> np.ndarray:
        """Evaluate a policy of the first seed and add its snapshot; return its returns, (episodes,)."""
        returns = expert_returns(expert, self.spec, self.episodes, SNAPSHOT_SEED)
        self._add_rows(self.seeds[0], step, "average", returns)
        self.entries.append(Snapshot(self.seeds[0], step, expert, estimate_value(returns)))
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

    def select_levels(self, shares: dict[str, float], estimate: Callable[[Expert], float]) -> dict[str, Snapshot]:
        """Return the best snapshot as "expert", and for each level the one closest to its share of the best value.

        `estimate(policy)` replaces the values of the five best candidates for each level. A level is left out if the
        closest snapshot is already that of another level.
        """
        best = max(self._reestimate(lambda s: -s.value, estimate), key=lambda s: s.value)
        levels = {"expert": best}
        for level, share in shares.items():

            def distance(s: Snapshot, target: float = share * best.value) -> float:
                return abs(s.value - target)

            closest = min(self._reestimate(distance, estimate), key=distance)
            if all((closest.seed, closest.step) != (s.seed, s.step) for s in levels.values()):
                levels[level] = closest
        return levels

    def _reestimate(self, order: Callable[[Snapshot], float], estimate: Callable[[Expert], float]) -> list[Snapshot]:
        candidates = sorted(self.entries, key=order)[:REESTIMATED]
        return [dataclasses.replace(s, value=estimate(s.policy)) for s in candidates]
