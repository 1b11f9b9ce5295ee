"""Evaluation of policies by the true return, and of learned rewards on held-out data."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from aihf_control.core.types import Clips, Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec
from aihf_control.environments.rollout import rollout
from aihf_control.models.networks import Policy, RewardFn
from aihf_control.models.sb3 import Expert

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


class RewardEvaluator:
    """Held-out comparisons and trajectories of a dataset, on which a learned reward is evaluated."""

    def __init__(self, dataset: Dataset, n_lanes: int, device: torch.device | str = "cpu"):
        test = dataset.pairs.loc[dataset.pairs["split"] == "test"]
        self.n_lanes, self.device = n_lanes, device
        self.pairs = dataset.preferences(test) if len(test) else None
        self.episodes = dataset.held_out

    def accuracy(self, reward: RewardFn) -> Array:
        """Return the share of held-out comparisons that the reward orders correctly, (L,); a tie counts half."""
        if self.pairs is None:
            return np.full(self.n_lanes, np.nan)
        win, lose = (self._clip_returns(reward, side) for side in (self.pairs.win, self.pairs.lose))
        return ((win > lose) + 0.5 * (win == lose)).mean(-1)

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
