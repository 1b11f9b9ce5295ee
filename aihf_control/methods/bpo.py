"""BPO: online preferences with the behaviour policy as reference (Xu et al., arXiv 2406.12168, algorithm 1).

Demonstrations D, annotator, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            pi_ref <- pi                                         behaviour policy of the segments below
            first, second ~ pi, from the same states of D
            P <- the annotator's preferences
        (win, lose) ~ P
        descend  loss(h(win), h(lose))                           of DPO, IPO or SLiC

BPO differs from OAIF in the first line of a phase. The paper reduces variance by an ensemble of adapters, here an
ensemble of whole policies: they start each phase with the same weights, learn from separate samples, and act and are
evaluated as the mean of their weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, PAIR_LOSSES, PairBuffer, QueryConfig, query_pairs
from aihf_control.learning.task import Progress, Task
from aihf_control.models.networks import Policy


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of BPO."""

    steps: int = 1000
    """Gradient steps."""
    loss: Literal["dpo", "ipo", "slic"] = "dpo"
    """Loss of a pair."""
    margin: float = 1.0
    """IPO's target of h(win) - h(lose)."""
    ensemble: int = 1
    """Policies whose weights are averaged."""
    direct: DirectConfig = ONLINE_DIRECT
    online: QueryConfig = QueryConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--ensemble": self.ensemble})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    online = cfg.online.for_task(task, cfg.steps)
    trainers = {f"trainer{i}": DirectTrainer(task, cfg.direct, cfg.clone) for i in range(cfg.ensemble)}
    answers, first = PairBuffer(task), trainers["trainer0"]
    policies = [trainer.policy for trainer in trainers.values()]
    for policy in policies:
        policy.load_state_dict(first.policy.state_dict())  # all start as the same clone
    yield Progress(first.reference, {})
    for k in task.iterations(answers=answers, **trainers):
        if online.starts_phase(k, cfg.steps):
            behaviour = average_policies(policies)
            for trainer in trainers.values():
                trainer.move_reference(behaviour)
                trainer.policy.load_state_dict(behaviour.state_dict())
            answers.add(query_pairs(task, behaviour, online))
        if answers.used_up(online.epochs * cfg.ensemble):
            yield first.rest()._replace(policy=average_policies(policies))
            continue
        for trainer in reversed(trainers.values()):  # the first comes last, as its scores are logged
            scores = trainer.score(answers.draw(cfg.direct.pair_steps))
            loss = PAIR_LOSSES[cfg.loss](scores.h_win, scores.h_lose, scores.weight, cfg.margin)
            trainer.descend(loss)
        yield first.report(loss, scores)._replace(policy=average_policies(policies))


def average_policies(policies: list[Policy]) -> Policy:
    """Return a policy whose weights are the mean of those given; a single policy is returned itself."""
    if len(policies) == 1:
        return policies[0]
    mean = policies[0].frozen_copy()
    with torch.no_grad():
        for p, *all_p in zip(mean.parameters(), *(policy.parameters() for policy in policies), strict=True):
            p.copy_(torch.stack(all_p).mean(0))
    return mean
