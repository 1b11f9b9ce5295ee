"""ZPG and ZBCPG: zeroth-order policy gradients from votes, without a reward (arXiv 2409.17401, algorithms 1 and 2).

Demonstrations D, annotators, parameters theta of the policy's last layer (d of them), link sigmoid(x / T):

    theta <- last layer of the clone of D
    for k = 1, 2, ...:
        v_1 .. v_m ~ unit sphere of theta                            ZBCPG: of a random block of its coordinates
        for each v:
            n pairs of segments from the same states of D:  one ~ pi_(theta + mu v),  other ~ pi_(theta - mu v)
            p <- share of the votes of each pair for the first
            dV <- mean over the pairs of  logit(p, trimmed to [trim, 1 - trim])
        theta <- theta + lr  mean over v of  d / (2 mu) dV v

The paper compares pi_(theta + mu v) with pi_theta, for d / mu; the two-sided form (`--no-two-sided` restores the
paper's) has less bias. It perturbs all parameters of a tabular or log-linear policy and plays whole episodes. Here
only the last layer is perturbed, segments are of `--online.length` steps, the unit of dV is the annotator's
temperature, and the step is Adam's. The method needs no density of the policy, no reward and no deterministic
environment, but many labels: all votes count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one, check_widths
from aihf_control.learning.bc import CloneConfig, clone
from aihf_control.learning.online import PlayConfig
from aihf_control.learning.task import Progress, Task
from aihf_control.models.lanes import Random
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of ZPG."""

    steps: int = 50
    """Iterations. The first one of each phase asks the annotators and takes a gradient step."""
    hidden: tuple[int, ...] = (128, 16)
    """Widths of the policy's hidden layers. The last one times the action size is about d."""
    mu: float = 0.3
    """Size of a perturbation."""
    block: int = 0
    """Coordinates that a perturbation changes, drawn anew for each: ZBCPG. 0: all of them, ZPG."""
    directions: int = 8
    """Perturbations per phase, if the labels suffice for so many."""
    votes: int = 1
    """Votes per pair; each is a label."""
    trim: float = 0.1
    """Distance of a share of votes from 0 and 1 at least."""
    two_sided: bool = True
    """Whether both policies of a pair are perturbed, in opposite directions."""
    lr: float = 0.01
    """Adam's learning rate."""
    online: PlayConfig = PlayConfig(length=200, phases=50)
    clone: CloneConfig = CloneConfig()

    def __post_init__(self):
        check_widths("--hidden", self.hidden)
        at_least_one({"--directions": self.directions, "--votes": self.votes})
        if self.mu <= 0 or self.block < 0 or not 0 < self.trim < 0.5:
            raise BadInput("--mu must be above 0, --block at least 0, and --trim between 0 and 0.5")

    def plan(self, task: Task) -> tuple[int, int]:
        """Return a phase's numbers of directions, and of pairs per direction. Raises BadInput for too few labels."""
        self.online.check_queries(task, self.steps, self.votes)
        pairs = task.n_offered // (self.online.phases * self.votes)
        if not pairs:
            need = self.online.phases * self.votes
            raise BadInput(f"--pairs {task.n_offered}: {self.online.phases} phases of {self.votes} votes need {need}")
        n_directions = min(self.directions, pairs)
        return n_directions, pairs // n_directions


def train(task: Task, cfg: Config) -> Iterator[Progress]:
    n_directions, n_pairs = cfg.plan(task)
    theta = LastLayer(task, clone(task, cfg.clone, cfg.hidden), cfg.lr)
    yield Progress(theta.policy, {})
    for k in task.iterations(theta=theta):
        info = {}
        if cfg.online.starts_phase(k, cfg.steps):
            v = theta.draw_directions(n_directions, cfg.block)
            starts = cfg.online.draw_starts(task, n_directions * n_pairs)
            up, down = cfg.mu * v, -cfg.mu * v if cfg.two_sided else 0 * v
            first, second = (
                task.rollout(Perturbed(theta.policy, step), starts, cfg.online.length) for step in (up, down)
            )
            p = task.vote(first, second, cfg.votes).unflatten(1, (n_directions, n_pairs))
            gain = value_gain(p, cfg.trim)
            g = gradient(gain, v, cfg.mu * (1 + cfg.two_sided))
            theta.ascend(g)
            info = {"gain": gain.abs().mean(-1), "gradient": g.flatten(1).norm(dim=-1)}
        yield Progress(theta.policy, info)


def value_gain(p: Tensor, trim: float) -> Tensor:
    """Return the estimated difference of values in units of the annotator's temperature, p (L, m, n) to (L, m)."""
    return p.clamp(trim, 1 - trim).logit().mean(-1)


def gradient(gain: Tensor, v: Tensor, distance: float) -> Tensor:
    """Return mean over m of (d / distance) gain v, for gains (L, m) and directions v (L, m, ...) of d numbers."""
    d = v[0, 0].numel()
    return d / distance * (gain.view(*gain.shape, *[1] * (v.dim() - 2)) * v).mean(1)


class LastLayer:
    """The last layer of a policy as parameters theta (L, H + 1, A), weights above biases, and their optimiser."""

    def __init__(self, task: Task, policy: Policy, lr: float):
        self.policy, self.rng = policy.requires_grad_(False), Random(task.dims, "directions")
        self.opt = Adam(list(policy.mean.parameters()), lr)

    def draw_directions(self, n: int, block: int) -> Tensor:
        """Draw directions (L, n, H + 1, A), uniform on the unit sphere of all or of `block` random coordinates."""
        shape = self.policy.mean.weight.shape[1] + 1, self.policy.mean.weight.shape[2]
        v = self.rng.normal(n, shape[0] * shape[1])
        if block:
            rank = self.rng.uniform(n, v.shape[-1]).argsort(-1).argsort(-1)
            v = v * (rank < block)
        return (v / v.norm(dim=-1, keepdim=True)).unflatten(-1, shape)

    def ascend(self, g: Tensor) -> None:
        """Take a step along a gradient, (L, H + 1, A)."""
        self.opt.step([-g[:, :-1].contiguous(), -g[:, -1:].contiguous()])

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in ("policy", "opt", "rng")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """A policy whose last layer is changed by one of m steps, (L, m, H + 1, A), for each m-th part of a batch."""

    policy: Policy
    step: Tensor

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions (L, B, A); greedy without noise."""
        mean, log_std = self.policy(obs, torch.float32)
        h = self.policy.last_hidden(obs).unflatten(1, (self.step.shape[1], -1))
        mean = mean + (h @ self.step[:, :, :-1] + self.step[:, :, -1:]).flatten(1, 2)
        return (mean if noise is None else mean + log_std.exp() * noise).tanh()
