"""AIHF-SPIN: the self-play special case of AIHF (arXiv 2406.06874): demonstrations are preferred to own segments.

Demonstrations D, comparisons P, policy pi, reference pi_ref, h = mean of beta log(pi / pi_ref) over a segment:

    pi <- clone of D
    for k = 1, 2, ...:
        at the start of a phase:
            pi_ref <- pi
            own ~ pi_ref, from the first states of segments demo of D
        (demo, own) and (win, lose) ~ P
        descend  -w_demo log sigmoid(h(demo) - h(own)) - w_pref log sigmoid(h(win) - h(lose))

The first term is that of SPIN (Chen et al., arXiv 2401.01335, equation 4.7). It needs no labels, but environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.direct import DirectConfig, DirectTrainer
from aihf_control.learning.online import ONLINE_DIRECT, OnlineConfig, PairBuffer, make_pairs
from aihf_control.learning.task import Progress, Task
from aihf_control.models.losses import bradley_terry


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of AIHF-SPIN."""

    steps: int = 1000
    """Gradient steps."""
    played: int = 32
    """Own segments per phase."""
    w_demo: float = 1.0
    """w1, weight of the preference for the demonstrations."""
    w_pref: float = 1.0
    """w2, weight of the preferences' likelihood; 0: no comparisons are needed."""
    direct: DirectConfig = ONLINE_DIRECT
    online: OnlineConfig = OnlineConfig(phases=4)
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pairs = task.comparisons() if cfg.w_pref else None
    trainer, own_pairs = DirectTrainer(task, cfg.direct, cfg.clone), PairBuffer(task)
    yield Progress(trainer.reference, {})
    for k in task.iterations(trainer=trainer, duels=own_pairs):
        if cfg.online.starts_phase(k, cfg.steps):
            trainer.move_reference(trainer.policy)
            starts = task.draw_starts(cfg.played, cfg.online.length)
            own = task.rollout(trainer.reference, starts, cfg.online.length).clips
            own_pairs.add(make_pairs(task.demo_clips(starts, cfg.online.length), own))
        scores = trainer.score(own_pairs.draw(cfg.direct.pair_steps))
        loss = cfg.w_demo * bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        if pairs:
            scores = trainer.score(pairs.draw(cfg.direct.pair_steps))
            loss = loss + cfg.w_pref * bradley_terry(scores.h_win, scores.h_lose, scores.weight)
        trainer.descend(loss)
        yield trainer.report(loss, scores)
