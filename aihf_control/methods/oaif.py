"""OAIF: online preferences from the current policy (Guo et al., arXiv 2402.04792, algorithm 1).

Demonstrations D, policy pi, reference pi_ref = clone of D, annotator, h = beta log(pi / pi_ref) a step of a clip:

    for k = 1, 2, ...:
        where a phase begins:
            clips, rivals ~ pi, pairwise from one state of D
            P <- the annotator's answers
        (win, lose) ~ P
        descend  loss(h(win), h(lose))                           of DPO, IPO or SLiC

The paper asks at every step; labels are dear here, so it asks in phases, as many comparisons in all as `--pairs`
offers, and learns from the latest answers only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, PAIR_LOSSES, OnlineConfig, PairBuffer, query_pairs
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of OAIF."""

    steps: int = 1000
    """Gradient steps."""
    loss: Literal["dpo", "ipo", "slic"] = "dpo"
    """What the pairs are learned from by."""
    direct: DirectConfig = ONLINE_DIRECT
    online: OnlineConfig = OnlineConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    cfg.online.check_queries(task)
    trainer, answers = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, answers=answers):
        if cfg.online.starts_phase(k, cfg.steps):
            answers.add(query_pairs(task, trainer.policy, cfg.online))
        scores = trainer.score(answers.draw(cfg.direct.pair_steps))
        loss = PAIR_LOSSES[cfg.loss](scores.h_win, scores.h_lose, scores.weight)
        trainer.descend(loss)
        yield trainer.report(loss, scores)
