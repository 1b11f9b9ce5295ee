"""IRL: maximum-likelihood inverse reinforcement learning (ML-IRL, Zeng et al., arXiv 2210.01808).

Demonstrations D, policy pi, reward r_theta:

    pi, pi_0 <- clone of D
    for k = 1, 2, ...:
        one step of pi, into the replay buffer                       policy alignment (lower level):
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_0)
        every reward_every steps:                                    reward (upper level):
            theta <- descend  E_pi r_theta - E_D r_theta               likelihood of the demonstrations

This is AIHF without its preference term. If comparisons are given, their segments are still used without labels, in
replay batches and to normalise observations; `--pairs 0` avoids this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of IRL."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_every: int = 10
    """Updates of SAC between two gradient steps of the reward."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS

    def __post_init__(self):
        at_least_one({"--reward-every": self.reward_every})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
            if sac.n_updates % cfg.reward_every == 0:
                gap, penalty = r.demo_term(buffer)
                r.descend(gap + penalty)
                info |= {"demo_gap": gap.detach(), "penalty": penalty.detach()}
        yield Progress(sac.average, info, r)
