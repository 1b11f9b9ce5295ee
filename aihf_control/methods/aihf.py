"""AIHF: reward and policy learned jointly from demonstrations and preferences (arXiv 2406.06874, Algorithm 1).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    D <- segments of D and P, weighted by a reward fitted to P       learning/tilt.py
    pi, pi_0 <- clone of D, or of the given demonstrations alone, whichever returns more under that reward
    alpha <- lower, the less pi_0 returns beside D
    theta <- ascend  E_P log P_theta(win > lose)                     first on the comparisons alone
    for k = 1, 2, ...:
        one step of pi, into the replay buffer                       policy alignment (lower level, L3):
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_0)
        every reward_every steps:                                    reward (upper level, w1 L1 + w2 L2):
            theta <- descend  w1 (E_pi r_theta - E_D r_theta)          likelihood of the demonstrations
                            - w2 E_P log P_theta(win > lose)
    result: the averaged pi whose greedy episodes returned most under theta of the comparisons alone    learning/best.py

P_theta(win > lose) = (1 - 2 m) sigmoid(R_theta(win) - R_theta(lose)) + m, where m is the expected share of wrong labels
(`--reward.mistakes`); m = 0 is the paper's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.learning.tilt import TiltConfig, clone_demos


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of AIHF."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_warmup: int = 1000
    """Gradient steps of the reward on the comparisons alone before the first of the policy."""
    reward_every: int = 10
    """Updates of SAC between two gradient steps of the reward."""
    w_demo: float = 1.0
    """w1, weight of the demonstrations' likelihood."""
    w_pref: float = 1.0
    """w2, weight of the preferences' likelihood."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS
    tilt: TiltConfig = TiltConfig()
    best: BestConfig = BestConfig()

    def __post_init__(self):
        at_least_one({"--reward-every": self.reward_every})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    pi_0, demos, factor = clone_demos(task, cfg.clone, cfg.sac.hidden, cfg.reward, cfg.tilt)
    sac = SAC(task.dims, cfg.sac, pi_0, pi_0.frozen_copy() if cfg.kl_to_clone else None, factor)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    r.fit(cfg.reward_warmup)
    best = BestPolicy(task, r.frozen_copy(), pi_0, cfg.best)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, demos=demos, unit=reward, best=best):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
            if sac.n_updates % cfg.reward_every == 0:
                gap, penalty = r.demo_term(buffer, demos)
                pair_loss = r.pair_term()
                r.descend(cfg.w_demo * gap + cfg.w_pref * pair_loss + penalty)
                info |= {"demo_gap": gap.detach(), "pair_loss": pair_loss.detach(), "penalty": penalty.detach()}
        yield Progress(best.offer(k, sac.average), info, r)
