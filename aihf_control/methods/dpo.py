"""DPO: direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7).

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  -log sigmoid(h(win) - h(lose))

In control the equation holds for segments that start in the same state and end their episode. For other segments it
neglects V(first) - gamma^K V(last). No environment steps are taken.
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
    """Settings of DPO."""

    steps: int = 2000
    """Gradient steps."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    def loss(s: PairScores) -> Tensor:
        return bradley_terry(s.h_win, s.h_lose, s.weight)

    return train_direct(task, task.comparisons(), DirectTrainer(task, cfg.direct, cfg.clone), loss)
