"""CPL: contrastive preference learning (Hejna et al., arXiv 2310.13639, equations 5 and 9).

Demonstrations D, comparisons P, policy pi, l = mean of beta log pi over a segment:

    pi <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  -log sigmoid(l(win) - bias l(lose))

CPL assumes labels by regret, not by return: make a dataset with `data make --label regret`. With a bias below 1 the
loss of a pair has a finite minimum in the mean action, at (a_win - bias a_lose) / (1 - bias). The paper discounts the
steps of a segment; here they have equal weights, as in the other direct methods. There is no reference. No environment
steps are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of CPL."""

    steps: int = 2000
    """Gradient steps."""
    bias: float = 0.5
    """The paper's lambda, factor of the loser's likelihood."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        if not 0 <= self.bias <= 1:
            raise BadInput(f"--bias must be from 0 to 1, got {self.bias}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        return bradley_terry(s.beta * s.logp_win, cfg.bias * s.beta * s.logp_lose, s.weight)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
