"""Cloning with a weight on the comparisons' winners: a method of another distribution, for the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.learning.bc import CloneConfig, Cloner
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the tests' method."""

    steps: int = 10
    """Gradient steps."""
    hidden: tuple[int, ...] = (8, 8)
    """Widths of the policy's hidden layers."""
    clone: CloneConfig = CloneConfig()


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    cloner = Cloner(task, cfg.clone, cfg.hidden)
    yield Progress(cloner.policy, {})
    for _ in task.iterations(cloner=cloner):
        yield Progress(cloner.policy, cloner.step())
