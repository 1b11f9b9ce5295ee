"""VAR: variational alignment by reward-weighted cloning (arXiv 2502.11026).

Demonstrations D, comparisons P, policy pi, reward r_theta, returns R_theta of segments:

    pi <- clone of D
    theta <- ascend  E_P log sigmoid(R_theta(win) - R_theta(lose))   reward, constant from here on
    b <- regress  R_theta(segment)  on the segment's first state     only with --baseline; else 0
    for k = 1, 2, ...:
        segments ~ both sides of P, and D
        w <- softmax over the batch of  (R_theta(segment) - b(first state)) / temperature
        descend  - sum_i w_i log pi(segment_i)

The weight in the paper also contains the density of a response under the reference. In control the density of a segment
would dominate the reward, so all segments have the same prior weight. The softmax over the batch is that paper's
estimate of the partition function. The paper has one partition function per prompt, that is, per first state; here few
segments share one, so without the baseline the softmax prefers good states to good actions. No environment steps are
taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Clips
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, clip_logp
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.reward_model import RewardConfig, RewardModel
from aihf_control.learning.task import Progress, Task

RIDGE = 1e-3  # weight decay of the baseline, per segment


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of VAR."""

    steps: int = 2000
    """Gradient steps."""
    reward_updates: int = 3000
    """Gradient steps of the reward before the first of the policy."""
    temperature: float = 1.0
    """The paper's lambda, in logits of the annotator. With 1, a segment preferred with odds of e : 1 has e times the
    weight."""
    baseline: bool = False
    """Whether the return that a segment's first observation predicts is subtracted from its own."""
    direct: DirectConfig = DirectConfig(lr=3e-4)
    reward: RewardConfig = RewardConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        if self.temperature <= 0:
            raise BadInput(f"--temperature must be above 0, got {self.temperature}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, r = DirectTrainer(task, cfg.direct, cfg.clone), RewardModel(task, cfg.reward)
    r.fit(cfg.reward_updates)
    b = fit_baseline(task, pairs, r) if cfg.baseline else no_baseline
    yield Progress(trainer.reference, {}, r)
    for _ in task.iterations(trainer=trainer, r=r):
        clips = sample_batch(task, pairs, cfg.direct.pair_steps)
        w = weigh(r.clip_returns(*clips).detach() - b(clips), cfg.temperature)
        loss = -(w * clip_logp(trainer.policy, clips)).sum(-1)
        trainer.descend(loss)
        yield Progress(trainer.policy, {"loss": loss.detach(), "effective_clips": 1 / w.square().sum(-1)}, r)


def sample_batch(task: Task, pairs: PreferenceBuffer, n_steps: int) -> Clips:
    """Draw segments of both sides of comparisons, and half as many of demonstrations, (L, n, K, ...)."""
    win, lose, _ = pairs.draw(n_steps)
    n, length = win.real.shape[1:]
    demo = task.demo_clips(task.draw_starts(n, length, restart=False), length)
    return Clips(*(torch.cat(three, 1) for three in zip(win, lose, demo, strict=True)))


def no_baseline(clips: Clips) -> Tensor:
    """Return 0 for each segment, (L, n)."""
    return torch.zeros_like(clips.real[..., 0])


def fit_baseline(task: Task, pairs: PreferenceBuffer, r: RewardModel) -> Callable[[Clips], Tensor]:
    """Regress the learned returns of both sides of all comparisons on first observations; return the prediction."""
    mean, std = (x[:, None] for x in task.compute_obs_stats())
    win, lose, _ = pairs.read_all()

    def inputs(clips: Clips) -> Tensor:
        x = (clips.obs[:, :, 0] - mean) / std
        return torch.cat([torch.ones_like(x[..., :1]), x, x.square()], -1)

    with torch.no_grad():
        x = torch.cat([inputs(win), inputs(lose)], 1)
        y = torch.cat([r.clip_returns(*win), r.clip_returns(*lose)], 1)
    factors = ridge(x, y)
    return lambda clips: torch.bmm(inputs(clips), factors).squeeze(-1)


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return the factors (L, d, 1) that minimise |x w - y|^2 + RIDGE n |w|^2 for x (L, n, d) and y (L, n)."""
    square = torch.bmm(x.transpose(1, 2), x) + RIDGE * x.shape[1] * torch.eye(x.shape[-1], device=x.device)
    return torch.linalg.solve(square, torch.bmm(x.transpose(1, 2), y[..., None]))


def weigh(returns: Tensor, temperature: float) -> Tensor:
    """Return the softmax over the batch, (L, n)."""
    return (returns / temperature).softmax(-1)
