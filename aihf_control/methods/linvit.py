"""LINVIT: optimistic value iteration against a prior policy (Zhang et al., arXiv 2402.16181, algorithm 1).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments, critics Q_1 and Q_2:

    pi_0 <- clone of D, the prior; pi <- pi_0
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    for k = 1, 2, ...:
        one step of pi, into the replay buffer
        V(s') <- lambda log E_pi_0 exp(min_i Q_i(s', a') / lambda)   from a' ~ pi, weighted by pi_0 / pi
        Q_i <- regress  Q_i(s, a)  on  r_theta(s, a) + gamma V(s')
        pi <- the policy  ~ pi_0 exp(Q_up / lambda),                 Q_up = mean_i Q_i + optimism std_i Q_i
    result: the averaged pi whose greedy episodes returned most under theta                             learning/best.py

lambda is the weight of the KL divergence (`--sac.alpha`, which begins at `--sac.alpha-start`). The paper's prior is a
language model, its claim that the data needed fall with KL(optimal policy, prior). Here the prior is a clone, better
or worse with the level of its demonstrations (`--no-prior`: uniform, and the first policy is untrained). The paper
pays the true reward; here it is learned, as in RLHF, and the paper's bonus from counts is the disagreement of two
critics. The critics' target has no bonus, as it would be bootstrapped; its expectation is over two actions, a draw and
its mirror image about the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone, initial_policy
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.learning.replay import Batch, Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy, TwinQ


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of LINVIT."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the first policy."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    optimism: float = 0.5
    """Standard deviations of the critics that are added to their mean in the policy's objective; -1: the least one."""
    prior: bool = True
    """Whether the prior is the clone, instead of the uniform policy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS
    best: BestConfig = BestConfig()

    def __post_init__(self):
        if self.optimism < -1:
            raise BadInput(f"--optimism must be at least -1, got {self.optimism}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    first = clone(task, cfg.clone, cfg.sac.hidden) if cfg.prior else initial_policy(task, cfg.sac.hidden, 0.0)
    learner = Linvit(task.dims, cfg.sac, first, first.frozen_copy() if cfg.prior else None, cfg.optimism)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    r.fit(cfg.reward_updates)
    best = BestPolicy(task, r, first, cfg.best)
    yield Progress(first, {})
    for k in task.iterations(sac=learner, r=r, buffer=buffer, unit=reward, best=best):
        task.collect(learner.policy, into=buffer)
        info = {}
        for _ in range(learner.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = learner.update(batch, reward, reward.absorbing)
        yield Progress(best.offer(k, learner.average), info, r)


class Linvit(SAC):
    """SAC with an optimistic actor, and with the log partition function of the prior as value."""

    def __init__(self, dims: Dims, cfg: SACConfig, policy: Policy, prior: Policy | None, optimism: float):
        super().__init__(dims, cfg, policy, prior)
        self.fixed_q = cast(TwinQ, Upper(self.fixed_q, optimism))

    @torch.no_grad()
    def target(self, batch: Batch, reward: Tensor, ended: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
        """Return the critics' regression target, (L, B). `ended` (L, 1) is the value of the absorbing state."""
        actions = [self.sample_action(batch.next_obs, x) for x in (noise, -noise)]
        q = torch.stack([self.q_target(batch.next_obs, act).amin(1) for act, _ in actions])
        value = soft_value(q, torch.stack([cost for _, cost in actions]), alpha)
        return reward + self.cfg.gamma * torch.where(batch.done > 0, ended, value)


@dataclasses.dataclass(frozen=True)
class Upper:
    """The upper value of two critics, in place of the least one, for an actor's objective."""

    q: TwinQ
    optimism: float

    def least(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return mean + optimism * standard deviation of the critics, (L, B), with its gradient for the action."""
        return upper(self.q(obs, act), self.optimism)


def upper(q: Tensor, optimism: float) -> Tensor:
    """Return mean + optimism * standard deviation over the two critics, (L, 2, B) to (L, B)."""
    return q.mean(1) + optimism * (q[:, 0] - q[:, 1]).abs() / 2


def soft_value(q: Tensor, cost: Tensor, weight: Tensor) -> Tensor:
    """Return lambda log mean_n exp(q / lambda - cost), (n, L, B) to (L, B).

    It estimates lambda log E_pi_0 exp(Q / lambda) from n actions of pi; `cost` is log(pi / pi_0) and `weight` lambda.
    """
    return weight * ((q / weight - cost).logsumexp(0) - torch.tensor(float(len(q))).log())
