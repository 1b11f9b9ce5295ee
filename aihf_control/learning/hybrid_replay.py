"""What a method with a replay learns from: the agent's own transitions, and the data it was given."""

from __future__ import annotations

import dataclasses

from aihf_control.core.files import BadInput, at_least_one
from aihf_control.learning.replay import Batch, Buffer, mix
from aihf_control.learning.task import Task


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay, the same for every method that has one."""

    batch: int = 256
    """Transitions in one update."""
    capacity: int = 200_000
    """Transitions of the agent that are kept, a lane."""
    demos: float = 0.25
    """Share of each batch that comes from the demonstrations (hybrid RL; all are scored by the current reward)."""
    clips: float = 0.25
    """Share of each batch that comes from the compared clips, whatever was said of them. It is open to methods that
    learn from no comparison, too, and counts as no label."""

    def __post_init__(self):
        at_least_one({"--replay.batch": self.batch, "--replay.capacity": self.capacity})
        if min(self.demos, self.clips) < 0 or self.demos + self.clips > 1:
            raise BadInput(f"--replay.demos {self.demos} and --replay.clips {self.clips}: give shares of a batch")


def sample(task: Task, buffer: Buffer, cfg: ReplayConfig) -> Batch:
    """A hybrid batch; a share for which a task has no data goes to the agent."""
    given = [(task.demos, cfg.demos), (task.clips, cfg.clips)]
    return mix([(buffer, 0.0), *((b, share) for b, share in given if b is not None)], cfg.batch)
