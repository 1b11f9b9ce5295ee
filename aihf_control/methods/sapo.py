"""SAPO: self-augmented preferences (Yin et al., arXiv 2405.20830, algorithm 1).

Demonstrations D, policy pi, its average pi_avg, h = beta log(pi / pi_avg) a step of a clip:

    for k = 1, 2, ...:
        every few steps:
            demo ~ D,  own ~ pi_avg from the state in which demo begins, (demo, own) into the queue
        (demo, own) ~ queue
        descend  -log sigmoid(h(demo) - h(own))
        pi_avg <- pi_avg + rate (pi - pi_avg)

What it plays begins at the demonstration's own states, as the paper's negatives at its own prefixes. It uses no
comparison and needs no label; its env steps are those of the clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, Pupil
from aihf_control.learning.online import NEAR, Gathered, OnlineConfig, beats
from aihf_control.learning.sac import follow
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of SAPO."""

    steps: int = 1000
    """Gradient steps."""
    played: int = 8
    """Clips of its own that it plays in a phase."""
    queue: int = 200
    """Pairs that are kept, the newest."""
    rate: float = 0.008
    """Rate of the average."""
    direct: DirectConfig = NEAR
    online: OnlineConfig = OnlineConfig(phases=50)
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played, "--queue": self.queue})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pupil, queue = Pupil(task, cfg.direct, cfg.clone), Gathered(task, cfg.queue)
    yield Progress(pupil.reference, {})
    for k in task.iterations(pupil=pupil, queue=queue):
        if cfg.online.begins(k, cfg.steps):
            starts = task.starts(cfg.played, cfg.online.length)
            own = task.rollout(pupil.reference, starts, cfg.online.length).clips
            queue.add(beats(task.shown(starts, cfg.online.length), own))
        sides = pupil.sides(queue.draw(cfg.direct.pair_steps))
        loss = bradley_terry(sides.h_win, sides.h_lose, sides.weight)
        pupil.descend(loss)
        follow(pupil.reference, pupil.policy, cfg.rate)
        yield pupil.progress(loss, sides)
