"""Offline-pre: imitation before learning from a paid reward (Andres et al., arXiv 2304.09825), "pre-training".

Demonstrations D of some levels, policy pi, the environment's own reward:

    pi <- clone of D                                                 imitation
    for k = 1, 2, ...:                                               reinforcement learning on levels drawn by resets:
        one step of pi, into the replay buffer, and its reward
        pi <- one step of SAC on the rewards that were paid            max_pi E_pi[reward] + alpha H(pi)

The paper asks how many demonstrations, of how many levels and of what quality, save steps in procedurally generated
environments whose reward is rare. The true reward is paid here (`Task.collect_paid`), so the method belongs beside
others of its kind, not beside those that learn without it. In place of PPO on MiniGrid it is SAC on a robot. New
critics would undo the clone, so the actor waits for them (`sac.hold`), and no term keeps it near the clone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.paid import PaidRewards
from aihf_control.learning.replay import Buffer
from aihf_control.learning.sac import SAC, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of offline-pre."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the clone."""
    batch: int = 256
    """Transitions per update."""
    capacity: int = 200_000
    """Transitions of the replay buffer per lane; older ones are overwritten."""
    sac: SACConfig = SACConfig(alpha=(0.01,), hold=1000, average=1e-3)
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        at_least_one({"--batch": self.batch, "--capacity": self.capacity})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pi = clone(task, cfg.clone, cfg.sac.hidden)
    sac = SAC(task.dims, cfg.sac, pi)
    buffer, paid = Buffer(task.dims, cfg.capacity), PaidRewards(task.dims, cfg.capacity)
    yield Progress(pi, {})
    for k in task.iterations(sac=sac, buffer=buffer, paid=paid):
        paid.add(task.collect_paid(sac.policy, into=buffer))
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch = buffer.sample(cfg.batch)
            info = sac.update(batch, paid.of(batch))
        yield Progress(sac.average, info)
