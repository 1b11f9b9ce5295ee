"""SALMON: a reward that follows instructible principles (Sun et al., arXiv 2310.05910, section 3).

Demonstrations D, comparisons P without their labels, policy pi, judge, reward r_theta(s, a, c), returns R_theta(., c):

    for each pair of P:                                              once
        gap_j <- by how much the judge finds the first better in principle j, in standard deviations
    theta <- ascend  E log sigmoid(R_theta(win, c) - R_theta(lose, c)),  where for each pair
        c <- one to three random principles, each with a random sign: 1 follow, -1 avoid; 0 for the others
        win <- by the sign and gap of the principle in c with the largest |gap|
    r(s, a) <- r_theta(s, a, c) with the principles c of the user    steering: no new labels, no new fit
    pi, pi_0 <- clone of D
    for k = 1, 2, ...:                                               reinforcement learning, as in RLHF:
        one step of pi, into the replay buffer
        pi <- one step of SAC on r                                     max_pi E_pi[r] - alpha KL(pi || pi_0)
    result: the averaged pi whose greedy episodes returned most under r                                 learning/best.py

The paper's principles are sentences, its judge a language model, and c is a part of the reward model's prompt, so new
sentences can be tried. Here there is no language: c is a vector over four fixed principles, and the judge measures
them in the simulator (`data/labelling/principles.py`). Each principle of each pair counts as a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.learning.principled_reward import PrincipledReward
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import PAPERS_REWARD, RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of SALMON."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    speed: float = 1.0
    """Principle of forward speed, from -1 (avoid) to 1 (follow); 0: indifferent."""
    effort: float = 0.0
    """Principle of large actions, from -1 to 1."""
    height: float = 0.0
    """Principle of a high root, from -1 to 1."""
    smoothness: float = 0.0
    """Principle of actions that change little, from -1 to 1."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = PAPERS_REWARD
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS
    best: BestConfig = BestConfig()

    def __post_init__(self):
        if self.reward.span or self.reward.mistakes or not self.reward.actions:
            raise BadInput(
                "SALMON's reward is of observation and action, unbounded, and learned from a judge without mistakes; "
                "leave --reward.actions, --reward.span and --reward.mistakes as they are"
            )
        if not any(self.principles) or max(map(abs, self.principles)) > 1:
            raise BadInput("--speed, --effort, --height and --smoothness must be from -1 to 1, and one of them not 0")

    @property
    def principles(self) -> tuple[float, ...]:
        """Return the principles c, in the order of the judge's."""
        return self.speed, self.effort, self.height, self.smoothness


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    opinion = task.judge()  # raises BadInput, before the clone is trained, if there are no comparisons
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    r = steered_reward(task, cfg, opinion)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    best = BestPolicy(task, r, pi_0, cfg.best)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward, best=best):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(best.offer(k, sac.average), info, r)


def steered_reward(task: Task, cfg: Config, opinion: Tensor) -> RewardModel:
    """Fit the reward r_theta(s, a, c) to the judge's opinion; return it for the principles of the config."""
    principled = PrincipledReward(task, cfg.reward, opinion)
    principled.fit(cfg.reward_updates)
    r = RewardModel(task, cfg.reward)
    r.net = principled.steer(torch.tensor(cfg.principles, device=task.dims.device))
    return r
