"""AIHF as in its paper, without what `aihf` adds (arXiv 2406.06874, Algorithm 1).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    for k = 1, 2, ...:
        one step of pi, into the replay buffer                       policy alignment (lower level, L3):
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] + alpha H(pi)
        every reward_every steps:                                    reward (upper level, w1 L1 + w2 L2):
            theta <- descend  w1 (E_pi r_theta - E_D r_theta)          likelihood of the demonstrations
                            - w2 E_P log sigmoid(R_theta(win) - R_theta(lose))

The policy starts at random, its entropy is rewarded instead of its nearness to a clone, the replay contains its own
steps only, and the reward is neither bounded nor scaled. The demonstrations are not tilted. The alive bonus, which sets
the reward's zero for tasks that end by a fall, is not the paper's, nor is the penalty on gradients of a norm above 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import initial_policy
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import PAPERS_REWARD, RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of AIHF as in its paper."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the untrained policy."""
    reward_every: int = 10
    """Updates of SAC between two gradient steps of the reward."""
    w_demo: float = 1.0
    """w1, weight of the demonstrations' likelihood."""
    w_pref: float = 1.0
    """w2, weight of the preferences' likelihood."""
    log_std: float = 0.0
    """Log standard deviation of the untrained policy before squashing."""
    reward_unit: bool = False
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = SACConfig()
    reward: RewardConfig = PAPERS_REWARD
    replay: ReplayConfig = ReplayConfig(demos=0.0, clips=0.0)

    def __post_init__(self):
        at_least_one({"--reward-every": self.reward_every})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput if there are none
    pi = initial_policy(task, cfg.sac.hidden, cfg.log_std)
    sac = SAC(task.dims, cfg.sac, pi)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    yield Progress(pi, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
            if sac.n_updates % cfg.reward_every == 0:
                gap, penalty = r.demo_term(buffer)
                pair_loss = r.pair_term()
                r.descend(cfg.w_demo * gap + cfg.w_pref * pair_loss + penalty)
                info |= {"demo_gap": gap.detach(), "pair_loss": pair_loss.detach(), "penalty": penalty.detach()}
        yield Progress(sac.average, info, r)
