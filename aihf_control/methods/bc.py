"""BC: behaviour cloning (Pomerleau 1989), from which every other method here starts.

for k = 1, 2, ...:
    (s, a) ~ D
    descend  -log pi(a | s)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.direct import CloneConfig, cloning, fresh_policy
from aihf_control.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of BC."""

    steps: int = CloneConfig.updates
    """Gradient steps."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    yield Progress(fresh_policy(task, cfg.hidden, cfg.clone.log_std), {})
    steps = cloning(task, cfg.clone, cfg.hidden)
    for _ in task.iterations():
        policy, info = next(steps)
        yield Progress(policy, info)
