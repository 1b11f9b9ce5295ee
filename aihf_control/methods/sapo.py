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
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, OnlineConfig, PairBuffer, make_pairs
from aihf_control.learning.sac import polyak_update
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
    direct: DirectConfig = ONLINE_DIRECT
    online: OnlineConfig = OnlineConfig(phases=50)
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played, "--queue": self.queue})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    trainer, queue = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task, cfg.queue)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, queue=queue):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = task.draw_starts(cfg.played, cfg.online.length)
            own = task.rollout(trainer.reference, starts, cfg.online.length).clips
            queue.add(make_pairs(task.demo_clips(starts, cfg.online.length), own))
        scores = trainer.score(queue.draw(cfg.direct.pair_steps))
        loss = bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        trainer.descend(loss)
        polyak_update(trainer.reference, trainer.policy, cfg.rate)
        yield trainer.report(loss, scores)
