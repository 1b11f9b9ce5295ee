"""DR-DPO: distributionally robust DPO (Mandal et al., arXiv 2503.00539), with a total-variation ball.

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose)_1..n ~ P
        l_i <- -log sigmoid(h(win_i) - h(lose_i))
        q <- argmax  sum q_i l_i  over the weights q with TV(q, uniform) <= rho
        descend  sum q_i l_i

The maximum takes the mass rho from the smallest losses of the batch and gives it to the largest ones. With rho = 0 this
is DPO. The paper's shift is one of prompts. In control, a pair's start and dynamics take their place, and no group
has to be known. A label that is wrong has a large loss as well, so rho should be below the share of labels that can be
trusted. No environment steps are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from aihf_control.core.errors import check_shares
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import robust_mean


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of DR-DPO."""

    steps: int = 2000
    """Gradient steps."""
    rho: float = 0.1
    """Radius of the ball in total variation: the share of a batch that is moved to its largest losses."""
    top: float = 0.1
    """Share of a batch with the largest losses, to which it is moved; 0: to the largest alone, the exact maximum."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_shares({"--rho": self.rho, "--top": self.top})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        return robust_mean(F.softplus(s.h_lose - s.h_win), s.weight, cfg.rho, cfg.top)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
