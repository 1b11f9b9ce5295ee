"""Nash-MD: a policy to which no other is preferred (Munos et al., arXiv 2312.00886, section 6).

Demonstrations D, comparisons P, policy pi, preference model P_phi, which may be intransitive (`preference_model.py`):

    pi, pi_0 <- clone of D
    phi <- ascend  E_P log P_phi(win > lose)                         a reward, then a cyclic term; constant from here on
    for k = 1, 2, ...:
        at the start of a phase:
            opponent ~ pi^(1 - c) pi_0^c, from states of D           a normalised mixture
        one step of pi, into the replay buffer
        pi <- one step of SAC on r(s, a) = contribution of (s, a) to logit P_phi(pi > opponent)
                                                                       max_pi E_pi[r] - alpha KL(pi || pi_0)

The paper maximises P_phi itself. Its logit is a sum over the steps of a segment, which gives a reward at every step. If
the cyclic term has share 0, the opponent has no effect and the method is RLHF; the log contains the share as `circle`.
The reward that is logged and saved is the part of r that does not depend on the opponent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import FOR_CRITICS, CloneConfig, clone
from aihf_control.learning.online import PlayConfig
from aihf_control.learning.preference_model import PreferenceModel
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.learning.reward_unit import RewardUnit
from aihf_control.learning.sac import FROM_CLONE, SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.mixture import Mixture


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of Nash-MD."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up, without the opponent's."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    reward_updates: int = 3000
    """Gradient steps of the reward, and then of the cyclic term, before the first of the policy."""
    mixture: float = 0.5
    """Share c of the clone in the opponent; 0: the policy itself, 1: the clone."""
    played: int = 16
    """Segments of the opponent per phase."""
    features: int = 8
    """Features of a segment in the cyclic term."""
    kl_to_clone: bool = True
    """Whether the KL divergence from the clone is penalised, instead of rewarding entropy."""
    reward_unit: bool = True
    """Whether the policy learns from the reward minus its running mean, divided by its running standard deviation."""
    sac: SACConfig = FROM_CLONE
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    online: PlayConfig = PlayConfig()
    clone: CloneConfig = FOR_CRITICS

    def __post_init__(self):
        at_least_one({"--played": self.played})
        if self.features < 2:
            raise BadInput(f"--features must be at least 2, got {self.features}: one feature is always transitive")
        if not 0 <= self.mixture <= 1:
            raise BadInput(f"--mixture must be from 0 to 1, got {self.mixture}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()  # raises BadInput, before the clone is trained, if there are none
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    model = PreferenceModel(task, cfg.reward, cfg.features)
    opponent = Mixture(sac.policy, pi_0.frozen_copy(), cfg.mixture)
    buffer, reward = Buffer(task.dims, cfg.replay.capacity), RewardUnit(task.dims, model, cfg.reward_unit)
    model.fit(cfg.reward_updates)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, model=model, opponent=opponent, buffer=buffer, unit=reward):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = cfg.online.draw_starts(task, cfg.played)
            model.set_opponent(task.rollout(opponent, starts, cfg.online.length).clips)
        task.collect(sac.policy, into=buffer)
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = hybrid_batch(buffer, task.demos, task.clips, cfg.replay)
            info = sac.update(batch, reward, reward.absorbing)
        yield Progress(sac.average, info | {"circle": model.share.squeeze(1)}, model.r)
