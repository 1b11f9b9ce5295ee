"""SAIL: online alignment as a single-level problem (Ding et al., arXiv 2406.15567, sections 4 and 5).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            Q <- pairs of segments ~ pi, from the same states of D
        (win, lose) ~ P,  (a, b) ~ Q, ordered so that h(a) >= h(b)
        descend  -(1 - own) log sigmoid(h(win) - h(lose)) - own log sigmoid(h(a) - h(b))
        ascend   w_sampling (log pi(a) + log pi(b)) log sigmoid(h(a) - h(b))               the bilevel term

Own pairs are labelled by the implicit reward of the policy, so they need environment steps but no labels (DDP in the
paper). The bilevel term is the score function of the policy's sampling, with the batch mean of its factor as baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores
from aihf_control.learning.online import ONLINE_DIRECT, PairBuffer, PlayConfig, make_pairs
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of SAIL."""

    steps: int = 1000
    """Gradient steps."""
    own: float = 0.3
    """Share of the own pairs in the loss."""
    played: int = 32
    """Own pairs per phase."""
    w_sampling: float = 0.1
    """Weight of the bilevel term."""
    direct: DirectConfig = ONLINE_DIRECT
    online: PlayConfig = PlayConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played})
        if not 0 <= self.own <= 1:
            raise BadInput(f"--own must be from 0 to 1, got {self.own}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, own_pairs = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, duels=own_pairs):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = cfg.online.draw_starts(task, cfg.played)
            first, second = (task.rollout(trainer.policy, starts, cfg.online.length).clips for _ in range(2))
            own_pairs.add(make_pairs(first, second))
        scores = trainer.score(pairs.draw(cfg.direct.pair_steps))
        loss = (1 - cfg.own) * bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        pair_loss, sampling = own_terms(trainer.score(own_pairs.draw(cfg.direct.pair_steps)))
        loss = loss + cfg.own * pair_loss + cfg.w_sampling * sampling
        trainer.descend(loss)
        yield trainer.report(loss, scores)


def own_terms(s: PairScores) -> tuple[Tensor, Tensor]:
    """Return the loss of own pairs with the policy's own labels, and the loss of the bilevel term, each (L,)."""
    pair_loss = F.softplus(-(s.h_win - s.h_lose).abs())
    factor = -pair_loss.detach()
    factor = factor - factor.mean(-1, keepdim=True)
    return pair_loss.mean(-1), -(factor * s.beta * (s.logp_win + s.logp_lose)).mean(-1)
