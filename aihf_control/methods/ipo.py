"""IPO: identity preference optimisation (Azar et al., arXiv 2310.12036, equation 17).

Comparisons P, policy pi, reference pi_ref = clone of D, h = beta log(pi / pi_ref) averaged over a clip's steps:

    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  (h(win) - h(lose) - margin)^2

The paper's 1 / (2 tau), the margin of the bare log ratio, is margin / beta here. The loss is content at a finite
margin, so the policy does not run to the actions' bounds. IPO takes no environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer, PairScores, train_direct
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import squared_margin


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of IPO."""

    steps: int = 2000
    """Gradient steps."""
    margin: float = 1.0
    """By how much the winner's h is to exceed the loser's."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        return squared_margin(s.h_win, s.h_lose, s.weight, cfg.margin)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
