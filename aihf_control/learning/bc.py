"""Behaviour cloning, the initial policy of every method.

See `direct.py` for the density that is used.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from aihf_control.core.errors import at_least_one
from aihf_control.core.progress import counted
from aihf_control.learning.imitated import SOURCES, ActionSampler
from aihf_control.learning.task import Task
from aihf_control.learning.task_state import Stateful
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam


@dataclasses.dataclass(frozen=True)
class CloneConfig:
    """Settings of behaviour cloning, the initial policy of every method."""

    on: Literal["demos", "clips", "both", "winners"] = "demos"
    """Data that is cloned: the demonstrations, both sides of the comparisons, demonstrations and both sides, or the
    preferred segments. A direct method whose pairs are not of the demonstrator's gait needs a clone of the clips."""
    updates: int = 5000
    """Gradient steps."""
    lr: float = 1e-3
    """Adam's learning rate."""
    batch: int = 256
    """Environment steps of the demonstrations per gradient step."""
    log_std: float = -1.0
    """Log standard deviation of the clone's exploration before squashing."""

    def __post_init__(self):
        at_least_one({"--clone.updates": self.updates, "--clone.batch": self.batch})


FOR_CRITICS = CloneConfig(log_std=-2.0)
"""A clone for methods with critics. With more noise it falls where its greedy actions do not."""


class SavedSampler(ActionSampler, Stateful, Protocol):
    """A source of actions whose state can be saved."""


def initial_policy(task: Task, hidden: tuple[int, ...], log_std: float) -> Policy:
    """Return a new policy, normalised by the lanes' observations, with a constant log standard deviation."""
    policy = Policy(task.dims, hidden)
    policy.units.set(*task.compute_obs_stats())
    with torch.no_grad():
        policy.log_std.bias.fill_(log_std)
    return policy


class Cloner:
    """A policy that is trained by behaviour cloning, and its optimiser."""

    def __init__(self, task: Task, cfg: CloneConfig, hidden: tuple[int, ...], demos: ActionSampler | None = None):
        self.data = demos if demos and cfg.on == CloneConfig.on else SOURCES[cfg.on](task)
        self.cfg = cfg
        self.policy = initial_policy(task, hidden, cfg.log_std)
        self.opt = Adam(mean_parameters(self.policy), cfg.lr)

    def step(self) -> dict[str, Tensor]:
        """Take a gradient step; return the loss, (L,)."""
        batch = self.data.sample(self.cfg.batch)
        loss = -step_logp(self.policy, batch.obs, batch.act).mean(-1)
        self.opt.descend(loss)
        return {"clone_loss": loss.detach()}

    def state_dict(self) -> dict:
        return {"policy": self.policy.state_dict(), "opt": self.opt.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.policy.load_state_dict(state["policy"])
        self.opt.load_state_dict(state["opt"])


def clone(task: Task, cfg: CloneConfig, hidden: tuple[int, ...], demos: SavedSampler | None = None) -> Policy:
    """Return a policy trained by `cfg.updates` gradient steps of behaviour cloning.

    `demos` replaces the demonstrations.
    """
    cloner = Cloner(task, cfg, hidden, demos)

    def fit() -> None:
        for _ in counted(cfg.updates, "cloning"):
            cloner.step()

    what = "clone", dataclasses.replace(cfg, log_std=0.0)  # constant, and not part of the loss
    parts = {"mean": ParameterState(mean_parameters(cloner.policy))} | ({"tilted": demos} if demos else {})
    task.compute_once(what, parts, fit)
    return cloner.policy


class ParameterState:
    """Parameters whose values are saved and loaded."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): p.detach().clone() for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for i, p in enumerate(self.parameters):
            p.copy_(state[str(i)])


def mean_parameters(policy: Policy) -> list[nn.Parameter]:
    """Return all parameters except those of the standard deviation, which the density below does not use."""
    return [*policy.body.parameters(), *policy.mean.parameters()]


def step_logp(policy: Policy, obs: Tensor, act: Tensor) -> Tensor:
    """Return the log density of actions, (L, B), up to a constant: see `direct.py`."""
    return action_logp(policy.greedy(obs), act)


def action_logp(greedy: Tensor, act: Tensor) -> Tensor:
    """Return the log density of actions, (..., A) to (...), for given greedy actions."""
    return -(act - greedy).square().sum(-1)
