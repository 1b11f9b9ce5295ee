"""Evaluation of policies by the true return, and of learned rewards on held-out data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats

from aihf_control.core.types import Clips, Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec, groups_of, spec_of
from aihf_control.environments.rollout import rollout
from aihf_control.models.expert import Expert
from aihf_control.models.networks import Policy, RewardFn

Array = np.ndarray
CHUNK = 10_000  # steps per call of a reward; a thousand whole trajectories at once would take gigabytes


def greedy_returns(policy: Policy, spec: EnvSpec, n: int, first: int = EVALUATION_SEED) -> Array:
    """Return the true returns of `n` greedy episodes per lane, (L, n), with the same seeds in every lane."""
    n_lanes = policy.mean.bias.shape[0]
    device = policy.mean.bias.device

    def act(obs: Array) -> Array:
        x = torch.as_tensor(obs, device=device).view(n_lanes, n, -1)
        return policy.act(x).flatten(0, 1).cpu().numpy()

    episodes = rollout(spec, act, [first + i for _ in range(n_lanes) for i in range(n)])
    return np.array([t.reward.sum() for t in episodes]).reshape(n_lanes, n)


def expert_returns(policy: Expert, spec: EnvSpec, n: int, first: int = EVALUATION_SEED, sampled: bool = False) -> Array:
    """Return the true returns of `n` episodes of a policy from a zip, (n,), greedy or with sampled actions."""
    return np.array([t.reward.sum() for t in expert_episodes(policy, spec, n, first, sampled)])


def expert_episodes(
    policy: Expert, spec: EnvSpec, n: int, first: int = EVALUATION_SEED, sampled: bool = False
) -> list[Trajectory]:
    """Play `n` episodes of a policy from a zip, greedy or with sampled actions."""
    rng = torch.Generator().manual_seed(0)

    def act(obs: Array) -> Array:
        noise = torch.randn(len(obs), spec.n_act, generator=rng) if sampled else None
        return policy.act(torch.as_tensor(obs), noise).numpy()

    return rollout(spec, act, range(first, first + n))


def group_columns(spec: EnvSpec, returns: Array) -> dict[str, Array]:
    """Return the lowest of the groups' mean `greedy_returns` (L, n), (L,), if the environment has groups."""
    groups = groups_of(spec, range(EVALUATION_SEED, EVALUATION_SEED + returns.shape[1]))
    return {"worst_return": worst_group(returns, groups)} if groups else {}


def worst_group(per_item: Array, groups: Sequence[int]) -> Array:
    """Return the least of the groups' means of a quantity (L, N), (L,)."""
    return np.min([per_item[:, np.array(groups) == g].mean(1) for g in set(groups)], 0)


class RewardEvaluator:
    """Held-out comparisons and trajectories of a dataset, on which a learned reward is evaluated."""

    def __init__(self, dataset: Dataset, n_lanes: int, device: torch.device | str = "cpu"):
        test = dataset.pairs.loc[dataset.pairs["split"] == "test"]
        self.n_lanes, self.device = n_lanes, device
        self.pairs = dataset.preferences(test) if len(test) else None
        self.episodes = dataset.held_out
        self.groups = _groups_of_pairs(dataset, test)

    def accuracy(self, reward: RewardFn) -> Array:
        """Return the share of held-out comparisons that the reward orders correctly, (L,); a tie counts half."""
        return self.correct(reward).mean(-1) if self.pairs else np.full(self.n_lanes, np.nan)

    def correct(self, reward: RewardFn) -> Array:
        """Return 1 for each held-out comparison that the reward orders correctly, 1/2 for a tie, else 0, (L, N)."""
        assert self.pairs, "there are no held-out comparisons"
        win, lose = (self._clip_returns(reward, side) for side in (self.pairs.win, self.pairs.lose))
        return (win > lose) + 0.5 * (win == lose)

    def group_columns(self, reward: RewardFn) -> dict[str, Array]:
        """Return the accuracy on the group of comparisons for which it is lowest, (L,), if there are groups."""
        return {"worst_pair_accuracy": worst_group(self.correct(reward), self.groups)} if self.groups else {}

    def rank_correlation(self, reward: RewardFn) -> Array:
        """Return Spearman's correlation of learned and true returns of held-out episodes, (L,).

        It is NaN if fewer than two episodes are held out.
        """
        if len(self.episodes) < 2:
            return np.full(self.n_lanes, np.nan)
        true = [t.reward.sum() for t in self.episodes]
        learned = np.stack([self._sum(reward, t.obs[:-1], t.act) for t in self.episodes], 1)
        return np.array([stats.spearmanr(true, row).statistic for row in learned])  # pyright: ignore[reportAttributeAccessIssue]

    def _clip_returns(self, reward: RewardFn, clips: Clips) -> Array:
        n, k, _ = clips.obs.shape
        flat = self._rewards(reward, clips.obs.reshape(n * k, -1), clips.act.reshape(n * k, -1))
        return (flat.reshape(-1, n, k) * clips.real).sum(-1)

    def _sum(self, reward: RewardFn, obs: Array, act: Array) -> Array:
        return self._rewards(reward, obs, act).sum(-1)

    @torch.no_grad()
    def _rewards(self, reward: RewardFn, obs: Array, act: Array) -> Array:
        def lanes(x: Array) -> torch.Tensor:
            return torch.as_tensor(x, device=self.device).expand(self.n_lanes, *x.shape)

        parts = [slice(i, i + CHUNK) for i in range(0, len(obs), CHUNK)]
        values = [reward(lanes(obs[part]), lanes(act[part])) for part in parts]
        return torch.cat(values, -1).double().cpu().numpy()


def _groups_of_pairs(dataset: Dataset, pairs: pd.DataFrame) -> list[int] | None:
    """Return the group of each comparison, or None if the data does not compare within groups."""
    if not dataset.meta.get("config", {}).get("same_group"):
        return None
    seeds = [dataset.pool[i].seed for i in pairs["win_episode"]]
    return groups_of(spec_of(dataset.meta["env"], **dataset.meta["options"]), seeds)
