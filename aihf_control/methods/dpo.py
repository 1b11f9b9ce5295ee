"""DPO: direct preference optimisation (Rafailov et al., arXiv 2305.18290, equation 7).

Comparisons P, policy pi, reference pi_ref = clone of D, h = beta log(pi / pi_ref) averaged over a clip's steps:

    for k = 1, 2, ...:
        (win, lose) ~ P
        descend  -log sigmoid(h(win) - h(lose))

In control the equation holds for clips that start in the same state and end their episode, which these do not; what it
leaves out there is V(first) - gamma^K V(last). DPO takes no environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.direct import CloneConfig, DirectConfig, train_direct
from aihf_control.rewards import bradley_terry
from aihf_control.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of DPO."""

    steps: int = 10_000
    """Gradient steps."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    direct: DirectConfig = DirectConfig()
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    return train_direct(task, cfg.direct, cfg.clone, cfg.hidden, bradley_terry)
