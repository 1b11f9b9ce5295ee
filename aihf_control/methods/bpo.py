"""BPO: online preferences against the policy that was compared (Xu et al., arXiv 2406.12168, algorithm 1).

Demonstrations D, policy pi, which begins as the clone of D, annotator, h = beta log(pi / pi_ref) a step of a clip:

    for k = 1, 2, ...:
        where a phase begins:
            pi_ref <- pi                                           the behaviour policy of what is compared next
            clips, rivals ~ pi, pairwise from one state of D
            P <- the annotator's answers
        (win, lose) ~ P
        descend  loss(h(win), h(lose))                           of DPO, IPO or SLiC

It differs from OAIF in the first line of a phase. The paper steadies it by an ensemble of adapters; here of whole
policies that begin each phase alike, learn from draws of their own, and act and end as the mean of their weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, PAIR_LOSSES, OnlineConfig, PairBuffer, query_pairs
from aihf_control.learning.task import Progress, Task
from aihf_control.models.networks import Policy


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of BPO."""

    steps: int = 1000
    """Gradient steps."""
    loss: Literal["dpo", "ipo", "slic"] = "dpo"
    """What the pairs are learned from by."""
    ensemble: int = 1
    """Policies whose weights are averaged."""
    direct: DirectConfig = ONLINE_DIRECT
    online: OnlineConfig = OnlineConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--ensemble": self.ensemble})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    cfg.online.check_queries(task)
    trainers = {f"trainer{i}": DirectTrainer(task, cfg.direct, cfg.clone) for i in range(cfg.ensemble)}
    answers, first = PairBuffer(task), trainers["trainer0"]
    for trainer in trainers.values():
        trainer.policy.load_state_dict(first.policy.state_dict())  # one clone, not a mean of several
    yield Progress(first.reference, {})
    for k in task.iterations(answers=answers, **trainers):
        if cfg.online.starts_phase(k, cfg.steps):
            behaviour = mean_of([trainer.policy for trainer in trainers.values()])
            for trainer in trainers.values():
                trainer.move_reference(behaviour)
                trainer.policy.load_state_dict(behaviour.state_dict())
            answers.add(query_pairs(task, behaviour, cfg.online))
        for trainer in reversed(trainers.values()):  # the first comes last: its figures are told
            scores = trainer.score(answers.draw(cfg.direct.pair_steps))
            loss = PAIR_LOSSES[cfg.loss](scores.h_win, scores.h_lose, scores.weight)
            trainer.descend(loss)
        yield first.report(loss, scores)._replace(policy=mean_of([trainer.policy for trainer in trainers.values()]))


def mean_of(policies: list[Policy]) -> Policy:
    """A policy whose weights are the mean of theirs; of one, itself."""
    if len(policies) == 1:
        return policies[0]
    mean = policies[0].frozen_copy()
    with torch.no_grad():
        for p, *all_p in zip(mean.parameters(), *(policy.parameters() for policy in policies), strict=True):
            p.copy_(torch.stack(all_p).mean(0))
    return mean
