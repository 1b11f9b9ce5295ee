"""PARL: a reward learned for the policy that it induces (Chakraborty et al., arXiv 2308.02585, algorithm 1).

Demonstrations D, policy pi, annotator, reward r_theta, returns R_theta of segments:

    pi, pi_0 <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            first, second ~ pi, from the same states of D            comparisons of the current policy's segments
            P <- P and the annotator's preferences
        one step of pi, into the replay buffer                       policy alignment (lower level):
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_0)
        every reward_every steps:                                    reward (upper level):
            theta <- descend  - E_P log sigmoid(R_theta(win) - R_theta(lose))
                            - w_agent E_pi r_theta                     effect of theta on the policy

The paper differentiates through the optimum of the policy; the last term is the first-order part of that derivative, as
in REBEL (arXiv 2312.14436). Its sign is opposite to that in AIHF, and it leaves out the alive bonus (`agent_term`). The
paper queries at every step. Here labels are limited: queries are made in phases, `--pairs` in total, and all labels are
kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.online import PairBuffer, PlayConfig, query_pairs
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of PARL."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up, without those of queries."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_every: int = 10
    """Updates of SAC between two gradient steps of the reward."""
    w_agent: float = 0.1
    """Weight of the agent's mean reward per step, relative to the demonstrations'."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    online: PlayConfig = PlayConfig()
    clone: CloneConfig = FOR_CRITICS

    def __post_init__(self):
        at_least_one({"--reward-every": self.reward_every})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    cfg.online.check_queries(task, cfg.steps)
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    r, answers = RewardModel(task, cfg.reward), PairBuffer(task, 2 * task.n_offered)  # a tie is stored in both orders
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, r=r, buffer=buffer, answers=answers, unit=reward):
        if cfg.online.starts_phase(k, cfg.steps):
            answers.add(query_pairs(task, sac.policy, cfg.online))
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
            if sac.n_updates % cfg.reward_every == 0:
                agent, penalty = r.agent_term(buffer)
                pair_loss = r.pair_term(answers.draw(cfg.reward.pair_steps))
                r.descend(pair_loss - cfg.w_agent * agent + penalty)
                info |= {"agent": agent.detach(), "pair_loss": pair_loss.detach(), "penalty": penalty.detach()}
        yield Progress(sac.average, info, r)
