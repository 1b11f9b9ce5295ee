"""RPO: DPO with a supervised loss as regulariser (Liu et al., arXiv 2405.16436, equation 4.3).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  -log sigmoid(h(win) - h(lose)) - w_win beta log pi(win)

The paper's base policy, whose actions the second term keeps likely, is that of the preferred segments. With w_win = 0
this is DPO. No environment steps are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry, weighted_mean


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of RPO."""

    steps: int = 2000
    """Gradient steps."""
    w_win: float = 0.1
    """The paper's eta, weight of the winners' likelihood."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        anchor = s.beta * weighted_mean(-s.logp_win, s.weight)
        return bradley_terry(s.h_win, s.h_lose, s.weight) + cfg.w_win * anchor

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
