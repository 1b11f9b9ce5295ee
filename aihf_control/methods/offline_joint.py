"""Offline-joint: imitation while learning from a paid reward (Andres et al., arXiv 2304.09825), "concurrent".

Demonstrations D of some levels, a new policy pi, the environment's own reward:

    for k = 1, 2, ...:                                               on levels drawn by resets:
        one step of pi, into the replay buffer, and its reward
        (s, a) ~ D
        pi <- one step of SAC on the rewards that were paid            max_pi E_pi[reward] + alpha H(pi)
              and of imitation, in one gradient                        + w_demo max(0, 1 - k / fade) log pi(a | s)

With w_demo = 0 this is SAC; with a very large one it is behaviour cloning. The policy does not begin as a clone. See
`offline_pre.py`, the same with imitation first, for what the paper asks and what differs here: the true reward is paid
(`Task.collect_paid`), and SAC takes the place of PPO. log pi of the demonstrations is that of `direct.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from aihf_control.core.errors import at_least_one
from aihf_control.learning.bc import initial_policy
from aihf_control.learning.paid import PaidRewards
from aihf_control.learning.replay import Buffer
from aihf_control.learning.sac import SAC, Imitation, SACConfig
from aihf_control.learning.task import Progress, Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of offline-joint."""

    steps: int = 25_000
    """Environment steps per lane, each with one update of the policy after the warm-up."""
    warmup: int = 1000
    """Environment steps before the first update, taken by the new policy."""
    w_demo: float = 10.0
    """Initial weight of imitation."""
    fade: int = 20_000
    """Environment steps in which that weight falls to 0."""
    batch: int = 256
    """Transitions of the agent, and of the demonstrations, per update."""
    capacity: int = 200_000
    """Transitions of the replay buffer per lane; older ones are overwritten."""
    log_std: float = -1.0
    """Log standard deviation of the new policy before squashing."""
    sac: SACConfig = SACConfig(alpha=(0.01,), average=1e-3)

    def __post_init__(self):
        at_least_one({"--fade": self.fade, "--batch": self.batch, "--capacity": self.capacity})


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    pi = initial_policy(task, cfg.sac.hidden, cfg.log_std)
    sac = SAC(task.dims, cfg.sac, pi)
    buffer, paid = Buffer(task.dims, cfg.capacity), PaidRewards(task.dims, cfg.capacity)
    yield Progress(pi, {})
    for k in task.iterations(sac=sac, buffer=buffer, paid=paid):
        paid.add(task.collect_paid(sac.policy, into=buffer))
        info = {}
        for _ in range(sac.due(k - cfg.warmup)):
            batch, demos = buffer.sample(cfg.batch), task.demos.sample(cfg.batch)
            weight = task.dims.tensor([[imitation_weight(cfg, k)]] * task.dims.n_lanes)
            info = sac.update(batch, paid.of(batch), imitation=Imitation(demos.obs, demos.act, weight))
        yield Progress(sac.average, info)


def imitation_weight(cfg: Config, k: int) -> float:
    """Return the weight of imitation at iteration k."""
    return cfg.w_demo * max(0.0, 1 - k / cfg.fade)
