"""VAR: variational alignment, reward-weighted cloning (arXiv 2502.11026).

Demonstrations D, comparisons P, policy pi, which begins as the clone of D, reward r_theta, returns R_theta of clips:

    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))
    for k = 1, 2, ...:
        clips ~ P, whoever won, and D
        w <- softmax over the batch of  R_theta(clip) / temperature
        descend  - sum_i w_i log pi(clip_i)

The paper's weight also has the reference's density of a response; that of a clip of control would drown the reward, so
all clips are alike a priori. The softmax over the batch is its estimate of the partition function. It takes no
environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, clip_logp
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of VAR."""

    steps: int = 2000
    """Gradient steps."""
    reward_updates: int = 3000
    """Gradient steps of the reward, before the policy's first."""
    temperature: float = 1.0
    """The paper's lambda, in logits of the annotator: a clip that would win with odds of e : 1 weighs e times as
    much."""
    direct: DirectConfig = DirectConfig(lr=3e-4)
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        if self.temperature <= 0:
            raise BadInput(f"--temperature {self.temperature}: give a number above 0")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    r.fit(cfg.reward_updates)
    yield Progress(trainer.reference, {}, r)
    for _ in task.iterations(trainer=trainer, r=r):
        clips = batch_of(task, pairs, cfg.direct.pair_steps)
        w = weights(r.clip_returns(*clips).detach(), cfg.temperature)
        loss = -(w * clip_logp(trainer.policy, clips)).sum(-1)
        trainer.descend(loss)
        yield Progress(trainer.policy, {"loss": loss.detach(), "effective_clips": 1 / w.square().sum(-1)}, r)


def batch_of(task: Task, pairs: PreferenceBuffer, n_steps: int) -> Clips:
    """Clips of both sides of a draw of comparisons, and half as many of the demonstrations', (L, n, K, ...)."""
    win, lose, _ = pairs.draw(n_steps)
    n, length = win.real.shape[1:]
    demo = task.demo_clips(task.draw_starts(n, length, restart=False), length)
    return Clips(*(torch.cat(three, 1) for three in zip(win, lose, demo, strict=True)))


def weights(returns: Tensor, temperature: float) -> Tensor:
    """Softmax over the batch, (L, n)."""
    return (returns / temperature).softmax(-1)
