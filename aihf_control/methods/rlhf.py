"""RLHF: the three stages (Christiano et al., arXiv 1706.03741; Ouyang et al., arXiv 2203.02155).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    D <- segments of D and P, weighted by a reward fitted to P       learning/tilt.py
    pi, pi_0 <- clone of D, or of the given demonstrations alone, whichever returns more under that reward
    alpha <- lower, the less pi_0 returns beside D
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    for k = 1, 2, ...:                                               reinforcement learning:
        one step of pi, into the replay buffer
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_0)
    result: the averaged pi whose greedy episodes returned most under theta                             learning/best.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

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
    """Settings of RLHF."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
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


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    pi_0, demos, factor = clone_demos(task, cfg.clone, cfg.sac.hidden, cfg.reward, cfg.tilt)
    sac = SAC(task.dims, cfg.sac, pi_0, pi_0.frozen_copy() if cfg.kl_to_clone else None, factor)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    r.fit(cfg.reward_updates)
    best = BestPolicy(task, r, pi_0, cfg.best)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, demos=demos, unit=reward, best=best):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(best.offer(k, sac.average), info, r)
