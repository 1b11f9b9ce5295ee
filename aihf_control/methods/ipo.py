"""IPO: identity preference optimisation (Azar et al., arXiv 2310.12036, equation 17).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  (h(win) - h(lose) - margin)^2

The paper's 1 / (2 tau), the margin of the plain log ratio, is margin / beta. The loss has its minimum at a finite
margin, so actions are not driven to their bounds. No environment steps are taken.
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
    """Target of h(win) - h(lose)."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        return squared_margin(s.h_win, s.h_lose, s.weight, cfg.margin)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
