"""OAIF: online preferences for the current policy (Guo et al., arXiv 2402.04792, algorithm 1).

Demonstrations D, annotator, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            first, second ~ pi, from the same states of D
            P <- the annotator's preferences
        (win, lose) ~ P
        descend  loss(h(win), h(lose))                           of DPO, IPO or SLiC

The paper queries at every step. Here labels are limited: queries are made in phases, `--pairs` in total, and only the
latest labels are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, PAIR_LOSSES, PairBuffer, QueryConfig, query_pairs
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of OAIF."""

    steps: int = 1000
    """Gradient steps."""
    loss: Literal["dpo", "ipo", "slic"] = "dpo"
    """Loss of a pair."""
    margin: float = 1.0
    """IPO's target of h(win) - h(lose)."""
    direct: DirectConfig = ONLINE_DIRECT
    online: QueryConfig = QueryConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    online = cfg.online.for_task(task, cfg.steps)
    trainer, answers = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, answers=answers):
        if online.starts_phase(k, cfg.steps):
            answers.add(query_pairs(task, trainer.policy, online))
        if answers.used_up(online.epochs):
            yield trainer.rest()
            continue
        scores = trainer.score(answers.draw(cfg.direct.pair_steps))
        loss = PAIR_LOSSES[cfg.loss](scores.h_win, scores.h_lose, scores.weight, cfg.margin)
        trainer.descend(loss)
        yield trainer.report(loss, scores)
