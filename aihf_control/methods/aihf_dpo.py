"""AIHF-DPO: AIHF with the reward written as the policy's own (arXiv 2406.06874, its direct special case).

Demonstrations D, comparisons P, policy pi, reference pi_0 = clone of D, h = beta log(pi / pi_0) a step of a clip. With
r = beta log(pi / pi_0) both likelihoods of the upper level are the policy's, and there is no lower level:

    for k = 1, 2, ...:
        (win, lose) ~ P,  (s, a) ~ D
        descend  - w_demo beta log pi(a | s) - w_pref log sigmoid(h(win) - h(lose))

It differs from RPO in whose actions stay likely: the demonstrations', not the winners'. No environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of AIHF-DPO."""

    steps: int = 2000
    """Gradient steps."""
    w_demo: float = 1.0
    """w1, weight of the demonstrations' likelihood."""
    w_pref: float = 1.0
    """w2, weight of the preferences' likelihood."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs, trainer = task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone)

    def loss(s: PairScores) -> Tensor:
        pair_loss = bradley_terry(s.h_win, s.h_lose, s.weight)
        return cfg.w_demo * cfg.direct.beta * trainer.demo_loss() + cfg.w_pref * pair_loss

    return train_direct(task, pairs, trainer, loss)
