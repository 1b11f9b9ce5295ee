"""RLHF as AIHF's paper compares with it: a reward from comparisons, then SAC from scratch (arXiv 1706.03741).

Comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    for k = 1, 2, ...:                                               reinforcement learning:
        one step of pi, into the replay buffer
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] + alpha H(pi)

There is no clone, and the replay contains the policy's own steps only. Demonstrations only normalise observations and
set the zero of the reward. `rlhf` is the strong form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.learning.bc import initial_policy
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import PAPERS_REWARD, RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of RLHF from scratch."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the untrained policy."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    log_std: float = 0.0
    """Log standard deviation of the untrained policy before squashing."""
    reward_unit: bool = False
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = SACConfig()
    reward: RewardConfig = PAPERS_REWARD
    replay: ReplayConfig = ReplayConfig(demos=0.0, clips=0.0)


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput if there are none
    pi = initial_policy(task, cfg.sac.hidden, cfg.log_std)
    sac = SAC(task.dims, cfg.sac, pi)
    r = RewardModel(task, cfg.reward)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    r.fit(cfg.reward_updates)
    yield Progress(pi, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(sac.average, info, r)
