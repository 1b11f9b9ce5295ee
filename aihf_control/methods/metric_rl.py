"""MetricRL: offline goal-conditioned learning by an embedding (Reichlin et al., arXiv 2402.10820).

Demonstrations D of any quality, policy pi(a | s, g), embedding phi, V(s, g) = -|phi(s) - phi(g)|:

    pi <- clone of D
    for k = 1, 2, ...:
        (s, a, s')_1..n ~ D
        descend  mean_i (|phi(s'_i) - phi(s_i)| - 1)^2  -  w_far mean_{i != j} log |phi(s_i) - phi(s'_j)|
        (s, a, s') ~ D, and goals g: positions anywhere in D
        ascend   (V(s', g) - V(s, g)) log pi(a | s, g)

The first loss puts successive states at distance 1 and pushes all others apart, so distances become numbers of steps
where each movement can be taken back. The second is not exponentiated: an action that leads away is pushed away from.
No reward, expert, comparison or environment step is needed; D may be random.

`imitate` is the baseline, behaviour cloning with the goals that episodes reached later: log pi(a | s, g) is ascended
alone. Left out: goals are positions, at rest, where the paper's are states, and log pi is that of `direct.py`, without
a learned deviation. Walking robots are not among its tasks, because their steps cannot be taken back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one, check_widths
from aihf_control.learning.bc import CloneConfig, clone, mean_parameters, step_logp
from aihf_control.learning.goals import Embedding, GoalBatch, GoalDemos
from aihf_control.learning.task import Progress, Task
from aihf_control.models.optim import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of MetricRL."""

    steps: int = 10_000
    """Gradient steps of the embedding, each with one of the policy."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of the policy and of the embedding."""
    size: int = 16
    """Dimensions of the embedding."""
    w_far: float = 1.0
    """Weight of the term that pushes states apart."""
    lr: float = 1e-3
    """Adam's learning rate."""
    batch: int = 256
    """Transitions per gradient step."""
    imitate: bool = False
    """Imitate the actions on the way to goals that episodes reached, without the embedding: the baseline."""
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_widths("--hidden", self.hidden)
        at_least_one({"--size": self.size})
        if self.batch < 2:
            raise BadInput(f"--batch must be at least 2, for states to be apart from others, got {self.batch}")


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    data = GoalDemos(task)  # raises BadInput, before the clone is trained, if there are no goals
    pi = clone(task, cfg.clone, cfg.hidden)
    phi = Embedding(task.dims, cfg.hidden, cfg.size, data.columns)
    phi.units.set(*task.compute_obs_stats())
    opt_pi, opt_phi = Adam(mean_parameters(pi), cfg.lr), Adam(phi.parameters(), cfg.lr)
    yield Progress(pi, {})
    for _ in task.iterations(data=data, pi=pi, phi=phi, opt_pi=opt_pi, opt_phi=opt_phi):
        info = {}
        if cfg.imitate:
            batch = data.sample_reached(cfg.batch)
            weight = torch.ones_like(batch.obs[..., 0])
        else:
            batch = data.sample(cfg.batch)
            loss = metric_loss(phi(batch.obs), phi(batch.next_obs), cfg.w_far)
            opt_phi.descend(loss)
            weight = advantage(phi, batch)
            info = {"metric_loss": loss.detach(), "advantage": weight.mean(-1)}
        pi_loss = -(weight * step_logp(pi, batch.obs, batch.act)).mean(-1)
        opt_pi.descend(pi_loss)
        yield Progress(pi, info | {"pi_loss": pi_loss.detach()})


def metric_loss(z: Tensor, next_z: Tensor, w_far: float) -> Tensor:
    """Return the embedding's loss, (L,), for embeddings of states and of their successors, (L, B, D)."""
    near = ((next_z - z).norm(dim=-1) - 1).square().mean(-1)
    far = (torch.cdist(z, next_z) + 1e-6).log()
    own = far.diagonal(dim1=1, dim2=2)
    n = z.shape[1] * (z.shape[1] - 1)
    return near - w_far * (far.sum((1, 2)) - own.sum(-1)) / n


@torch.no_grad()
def advantage(phi: Embedding, batch: GoalBatch) -> Tensor:
    """Return how much nearer to its goal each transition leads, V(s', g) - V(s, g), (L, B)."""
    goal = phi.embed_goal(batch.goal)
    before, after = ((phi(obs) - goal).norm(dim=-1) for obs in (batch.obs, batch.next_obs))
    return before - after
