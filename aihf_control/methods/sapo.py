"""SAPO: self-augmented preferences (Yin et al., arXiv 2405.20830, algorithm 1).

Demonstrations D, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi, pi_ref <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            own ~ pi_ref, from the first states of segments demo of D
            queue <- queue and (demo, own)
        (demo, own) ~ queue
        descend  -log sigmoid(h(demo) - h(own))
        pi_ref <- pi_ref + rate (pi - pi_ref)

Own segments start in states of the demonstrations, as the paper's negatives start with prefixes of the positives. No
comparisons are needed; environment steps are those of the own segments.
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
    """Own segments per phase."""
    queue: int = 200
    """Newest pairs that are kept."""
    rate: float = 0.008
    """Rate at which the reference follows the policy."""
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
