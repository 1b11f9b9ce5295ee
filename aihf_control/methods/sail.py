"""SAIL: online alignment by bilevel optimisation, in one level (Ding et al., arXiv 2406.15567, sections 4 and 5).

Comparisons P, policy pi, reference pi_ref = clone of D, h = beta log(pi / pi_ref) averaged over a clip's steps:

    for k = 1, 2, ...:
        where a phase begins:
            Q <- clips and rivals ~ pi, pairwise from one state of D
        (win, lose) ~ P,  (a, b) ~ Q, called (a', b') so that h(a') >= h(b')
        descend  - (1 - own) log sigmoid(h(win) - h(lose)) - own log sigmoid(h(a') - h(b'))
        ascend   w_sampling  (log pi(a) + log pi(b)) log sigmoid(h(a') - h(b'))            the bilevel term

The own pairs are labelled by the policy's implicit reward, so that they cost env steps but no label (the paper's DDP).
The last term is the score function of what the policy samples, its factor less its mean over the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores
from aihf_control.learning.online import ONLINE_DIRECT, OnlineConfig, PairBuffer, make_pairs
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of SAIL."""

    steps: int = 1000
    """Gradient steps."""
    own: float = 0.3
    """Share of the loss that its own pairs have."""
    played: int = 32
    """Pairs that it plays in a phase."""
    w_sampling: float = 0.1
    """Weight of the bilevel term."""
    direct: DirectConfig = ONLINE_DIRECT
    online: OnlineConfig = OnlineConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played})
        if not 0 <= self.own <= 1:
            raise BadInput(f"--own {self.own}: give a share from 0 to 1")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons()
    trainer, duels = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, duels=duels):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = task.draw_starts(cfg.played, cfg.online.length)
            duels.add(make_pairs(*(task.rollout(trainer.policy, starts, cfg.online.length).clips for _ in range(2))))
        scores = trainer.score(pairs.draw(cfg.direct.pair_steps))
        loss = (1 - cfg.own) * bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        pair_loss, sampling = own_terms(trainer.score(duels.draw(cfg.direct.pair_steps)), cfg.direct.beta)
        loss = loss + cfg.own * pair_loss + cfg.w_sampling * sampling
        trainer.descend(loss)
        yield trainer.report(loss, scores)


def own_terms(s: PairScores, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of own pairs under the policy's own labels, and the bilevel term's loss, each (L,)."""
    surprise = F.softplus(-(s.h_win - s.h_lose).abs())
    factor = -surprise.detach()
    factor = factor - factor.mean(-1, keepdim=True)
    return surprise.mean(-1), -(factor * beta * (s.logp_win + s.logp_lose)).mean(-1)
