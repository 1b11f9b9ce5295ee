"""BC: behaviour cloning (Pomerleau 1989), the initial policy of every other method.

Demonstrations D, policy pi:

    for k = 1, 2, ...:
        (s, a) ~ D
        descend  -log pi(a | s)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import BadInput, check_widths
from aihf_control.learning.bc import CloneConfig, Cloner
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of BC."""

    steps: int = CloneConfig.updates
    """Gradient steps."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_widths("--hidden", self.hidden)
        if self.clone.updates != CloneConfig.updates:
            raise BadInput(f"--clone.updates: bc takes --steps gradient steps; give --steps {self.clone.updates}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    cloner = Cloner(task, cfg.clone, cfg.hidden)
    yield Progress(cloner.policy, {})
    for _ in task.iterations(cloner=cloner):
        info = cloner.step()
        yield Progress(cloner.policy, info)
