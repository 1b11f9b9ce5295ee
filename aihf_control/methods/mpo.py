"""MPO: mixed preference optimisation (arXiv 2403.19443): DPO on easy pairs, then reinforcement learning.

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    pi, pi_0 <- clone of D                                           supervised fine-tuning
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    easy <- the half of P with the larger |R_theta(win) - R_theta(lose)|
    pi, pi_1 <- DPO on easy, from pi_0 and with reference pi_0
    for k = 1, 2, ...:                                               reinforcement learning:
        one step of pi, into the replay buffer
        pi <- one step of SAC on r_theta                               max_pi E_pi[r_theta] - alpha KL(pi || pi_1)
    result: the averaged pi whose greedy episodes returned most under theta                             learning/best.py

The second stage of the paper uses the prompts of the hard pairs. In control the task has a single distribution of
starts, and the hard pairs contribute through r_theta. MPO differs from RLHF in its initial policy, which is also its
prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.learning.bc import FOR_CRITICS, CloneConfig
from aihf_control.learning.best import BestConfig, BestPolicy
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of MPO."""

    steps: int = 15_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the aligned policy."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    direct_updates: int = 2000
    """Gradient steps of DPO on the easy half."""
    direct: DirectConfig = DirectConfig()
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    clone: CloneConfig = FOR_CRITICS
    best: BestConfig = BestConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    yield Progress(trainer.reference, {})
    r.fit(cfg.reward_updates)
    easy = select_easy(task, r)
    for _ in task.counted(cfg.direct_updates, "dpo"):
        s = trainer.score(pairs.draw(cfg.direct.pair_steps, easy))
        trainer.descend(bradley_terry(s.h_win, s.h_lose, s.weight))
    sac = SAC(task.dims, cfg.sac, trainer.policy, prior=trainer.policy.frozen_copy())
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, r, cfg.reward_unit)
    best = BestPolicy(task, r, trainer.policy, cfg.best)
    for k in task.iterations(sac=sac, r=r, buffer=buffer, unit=reward, best=best):
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(best.offer(k, sac.average), info, r)


def select_easy(task: Task, r: RewardModel) -> Tensor:
    """Return the numbers of each lane's comparisons with the largest reward gap, (L, n / 2)."""
    win, lose, _ = task.comparisons().read_all()
    gap = (r.clip_returns(*win) - r.clip_returns(*lose)).detach().abs()
    return gap.topk(max(1, gap.shape[1] // 2), 1).indices
