"""Behaviour cloning, from which every method starts."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from aihf_control.core.errors import at_least_one
from aihf_control.learning.task import Task
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam


@dataclasses.dataclass(frozen=True)
class CloneConfig:
    """Settings of behaviour cloning, from which every method starts."""

    updates: int = 5000
    """Gradient steps."""
    lr: float = 1e-3
    """Adam's learning rate."""
    batch: int = 256
    """Steps of the demonstrations in one gradient step."""
    log_std: float = -1.0
    """Log deviation, before the squashing, with which the clone explores."""

    def __post_init__(self):
        at_least_one({"--clone.updates": self.updates, "--clone.batch": self.batch})


def initial_policy(task: Task, hidden: tuple[int, ...], log_std: float) -> Policy:
    """A policy in the units of the lanes' data, with a fixed deviation to begin with."""
    policy = Policy(task.dims, hidden)
    policy.units.set(*task.units())
    with torch.no_grad():
        policy.log_std.bias.fill_(log_std)
    return policy


class Cloner:
    """Behaviour cloning: the policy, and a gradient step at a time."""

    def __init__(self, task: Task, cfg: CloneConfig, hidden: tuple[int, ...]):
        self.task, self.cfg = task, cfg
        self.policy = initial_policy(task, hidden, cfg.log_std)
        self.opt = Adam(mean_parameters(self.policy), cfg.lr)

    def step(self) -> dict[str, Tensor]:
        batch = self.task.demos.sample(self.cfg.batch)
        loss = -step_logp(self.policy, batch.obs, batch.act).mean(-1)
        self.opt.descend(loss)
        return {"clone_loss": loss.detach()}

    def state_dict(self) -> dict:
        return {"policy": self.policy.state_dict(), "opt": self.opt.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.policy.load_state_dict(state["policy"])
        self.opt.load_state_dict(state["opt"])


def clone(task: Task, cfg: CloneConfig, hidden: tuple[int, ...]) -> Policy:
    """The policy after `cfg.updates` steps of cloning."""
    cloner = Cloner(task, cfg, hidden)
    for _ in range(cfg.updates):
        cloner.step()
    return cloner.policy


def mean_parameters(policy: Policy) -> list[nn.Parameter]:
    """All but the deviation's, which has no part in the density below."""
    return [*policy.body.parameters(), *policy.mean.parameters()]


def step_logp(policy: Policy, obs: Tensor, act: Tensor) -> Tensor:
    """Log density a step, (L, B), up to a constant: see the head of this file."""
    return _logp(policy.greedy(obs), act)


def _logp(greedy: Tensor, act: Tensor) -> Tensor:
    return -(act - greedy).square().sum(-1)
