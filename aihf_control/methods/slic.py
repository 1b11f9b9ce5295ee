"""SLiC: sequence likelihood calibration (Zhao et al., arXiv 2305.10425, equation 2).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P,  (s, a) ~ D
        descend  max(0, 1 - h(win) + h(lose)) - w_demo beta log pi(a | s)

D is the data of the clone (`--clone.on`), as the paper's is that of supervised fine-tuning. The hinge is on log ratios,
as in OAIF and BPO, which compare it with DPO and IPO. On plain likelihoods, as in the paper, it has a different margin
for every pair. No environment steps are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import hinge


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of SLiC."""

    steps: int = 2000
    """Gradient steps."""
    w_demo: float = 1.0
    """The paper's lambda, weight of the cloned data's likelihood."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs, trainer = task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone)

    def loss(s: PairScores) -> Tensor:
        return hinge(s.h_win, s.h_lose, s.weight) + cfg.w_demo * s.beta * trainer.cloned_loss()

    return train_direct(task, pairs, trainer, loss)
