"""DR-RLHF: RLHF with a distributionally robust reward (Mandal et al., arXiv 2503.00539), in a total-variation ball.

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    pi, pi_0 <- clone of D
    repeat reward_updates times:                                     reward, constant from here on
        (win, lose)_1..n ~ P
        l_i <- -log sigmoid(R_theta(win_i) - R_theta(lose_i))
        q <- argmax  sum q_i l_i  over the weights q with TV(q, uniform) <= rho
        theta <- descend  sum q_i l_i
    for k = 1, 2, ...:                                               reinforcement learning, as in RLHF
        one step of pi, into the replay buffer
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_0)
    result: the averaged pi whose greedy episodes returned most under theta                             learning/best.py

The maximum takes the mass rho from the smallest losses of the batch and gives it to the largest ones. With rho = 0 this
is RLHF. The paper's shift is one of prompts; in control, a pair's start and dynamics take their place, and no group has
to be known. The paper's robust policy stage, over prompts again, is left out: this policy draws its own states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.core.errors import check_shares
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import pair_losses, robust_mean


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of DR-RLHF."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    rho: float = 0.1
    """Radius of the ball in total variation: the share of a batch that is moved to its largest losses."""
    top: float = 0.1
    """Share of a batch with the largest losses, to which it is moved; 0: to the largest alone, the exact maximum."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS
    best: BestConfig = BestConfig()

    def __post_init__(self):
        check_shares({"--rho": self.rho, "--top": self.top})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    for _ in task.counted(cfg.reward_updates, "fitting the reward"):
        r.descend(robust_pair_term(task, r, cfg) + r.clip_penalty())
        r.recentre()
    best = BestPolicy(task, r, pi_0, cfg.best)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward, best=best):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(best.offer(k, sac.average), info, r)


def robust_pair_term(task: Task, r: RewardModel, cfg: Config) -> Tensor:
    """Return the largest mean loss of a batch of comparisons within the ball, (L,)."""
    win, lose, weight = task.comparisons().draw(cfg.reward.pair_steps)
    losses = pair_losses(r.clip_returns(*win), r.clip_returns(*lose), cfg.reward.mistakes)
    return robust_mean(losses, weight, cfg.rho, cfg.top)
