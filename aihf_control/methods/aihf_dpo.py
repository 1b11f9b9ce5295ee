"""AIHF-DPO: AIHF with the policy's own reward beta log(pi / pi_ref) (arXiv 2406.06874, its direct special case).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P,  (s, a) ~ D
        descend  -w_pref log sigmoid(h(win) - h(lose)) - w_demo beta log pi(a | s)

With this reward both likelihoods of the upper level are those of the policy, and there is no lower level. AIHF-DPO
differs from RPO in the actions that the second term keeps likely: those of the demonstrations, not of the preferred
segments. No environment steps are taken.
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
        return cfg.w_pref * pair_loss + cfg.w_demo * s.beta * trainer.demo_loss()

    return train_direct(task, pairs, trainer, loss)
