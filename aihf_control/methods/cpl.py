"""CPL: contrastive preference learning (Hejna et al., arXiv 2310.13639, equations 5 and 9).

Comparisons P, policy pi, which begins as the clone of D, l = beta log pi averaged over a clip's steps:

    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  -log sigmoid(l(win) - bias l(lose))

It holds if the annotator judges by regret, not by return: make such comparisons with `data make --label regret`. A bias
below 1 makes the loss of a pair concave in the mean action, with its optimum at (a_win - bias a_lose) / (1 - bias). The
paper discounts within a clip; here a clip's steps count alike, as in this family's other losses. There is no reference
and there are no environment steps.
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
    """The paper's lambda: how much of the loser's likelihood counts."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        if not 0 <= self.bias <= 1:
            raise BadInput(f"--bias {self.bias}: give a number from 0 to 1")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        beta = cfg.direct.beta
        return bradley_terry(beta * s.logp_win, cfg.bias * beta * s.logp_lose, s.weight)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
