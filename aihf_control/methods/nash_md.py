"""Nash-MD: towards the policy that none is preferred to (Munos et al., arXiv 2312.00886, section 6).

Demonstrations D, comparisons P, policy pi, model P_phi of preferences, which may go in a circle (`general.py`):

    pi, pi_0 <- clone of D
    phi <- ascend  E_P log P_phi(win > lose)                         fixed from here on; a reward, then circles
    for k = 1, 2, ...:
        where a phase begins:
            rivals ~ pi^(1 - c) pi_0^c, from states of D             the opponent: a mixture, normalised
        tau^A ~ pi, into the replay
        pi <- one step of SAC on r(s, a) = what (s, a) adds to logit P_phi(tau^A > rivals)
                                                                       max_pi E_pi[r] - alpha KL(pi || pi_0)

The paper raises P_phi itself; its logit adds up over the steps of a clip, so that the policy is paid at every step.
Where P_phi finds no circle in the comparisons the rivals do not matter, and this is RLHF; the log tells the share that
a circle was given. What is told and saved as the reward is the part of r that is the same against all rivals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import BadInput, at_least_one
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.online import OnlineConfig
from aihf_control.learning.preference_model import PreferenceModel
from aihf_control.learning.replay import Buffer, ReplayConfig, hybrid_batch
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.networks import Mixture


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of Nash-MD."""

    steps: int = 25_000
    """Environment steps a lane, each with one update of the policy; those of the rivals' clips come on top."""
    warmup: int = 1000
    """Environment steps of the clone before the first update."""
    reward_updates: int = 3000
    """Gradient steps of the reward, and then as many of the circle, before the policy's first."""
    mixture: float = 0.5
    """The clone's share c in the opponent: at 0 the policy plays against itself, at 1 against the clone."""
    played: int = 16
    """Clips that the opponent plays in a phase."""
    features: int = 8
    """Features of a clip through which preferences can go in a circle."""
    kl_to_clone: bool = True
    """Whether the policy pays for its KL to the clone instead of being paid for its entropy."""
    sac: SACConfig = SACConfig()
    reward: RewardConfig = RewardConfig()
    replay: ReplayConfig = ReplayConfig()
    online: OnlineConfig = OnlineConfig()
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--played": self.played})
        if self.features < 2:
            raise BadInput(f"--features {self.features}: give at least 2, as one goes in no circle")
        if not 0 <= self.mixture <= 1:
            raise BadInput(f"--mixture {self.mixture}: give a share from 0 to 1")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    task.comparisons()
    pi_0 = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi_0, prior=pi_0.frozen_copy() if cfg.kl_to_clone else None)
    model = PreferenceModel(task, cfg.reward, cfg.features)
    opponent = Mixture(sac.policy, pi_0.frozen_copy(), cfg.mixture)
    buffer = Buffer(task.dims, cfg.replay.capacity)
    model.fit(cfg.reward_updates)
    yield Progress(pi_0, {})
    for k in task.iterations(sac=sac, model=model, opponent=opponent, buffer=buffer):
        if cfg.online.starts_phase(k, cfg.steps):
            starts = task.draw_starts(cfg.played, cfg.online.length)
            model.set_opponent(task.rollout(opponent, starts, cfg.online.length).clips)
        task.collect(sac.policy, into=buffer)
        info = sac.update(hybrid_batch(buffer, task.demos, task.clips, cfg.replay), model) if k > cfg.warmup else {}
        yield Progress(sac.average, info | {"circle": model.share.squeeze(1)}, model.r)
