"""Policies from data alone: cloning, and the one loop that the direct preference methods share.

A density for these losses has to survive pairs of actions at the bounds, where the squashed Gaussian's is infinite, and
must not reward its own collapse. So, as contrastive preference learning does (arXiv 2310.13639), the log density of an
action here is  -|a - tanh(mean(s))|^2:  a Gaussian of fixed deviation around the greedy action, up to a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from aihf_control.data import Clips
from aihf_control.files import at_least_one
from aihf_control.fused import Adam
from aihf_control.nets import Policy
from aihf_control.task import Progress, Task


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


@dataclasses.dataclass(frozen=True)
class DirectConfig:
    """Settings of the direct methods' loop."""

    beta: float = 5.0
    """How strongly a log ratio to the reference, averaged over a clip's steps, speaks for a clip."""
    lr: float = 3e-5
    """Adam's learning rate."""
    pair_steps: int = 6400
    """Steps of the compared clips in one gradient step: 64 pairs of clips of 50."""


def fresh_policy(task: Task, hidden: tuple[int, ...], log_std: float) -> Policy:
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
        self.policy = fresh_policy(task, hidden, cfg.log_std)
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
    mean, _ = policy(obs)
    return -(act - mean.tanh()).square().sum(-1)


def clip_logp(policy: Policy, clips: Clips) -> Tensor:
    """Log density a step of clips, (L, n); steps after termination count as nothing."""
    obs, act, real = clips
    logp = step_logp(policy, obs.flatten(1, 2), act.flatten(1, 2)).view(real.shape)  # type: ignore[arg-type]
    return (logp * real).mean(-1)


def log_ratios(policy: Policy, reference: Policy, clips: Clips) -> Tensor:
    """log(pi / reference) a step of clips, (L, n)."""
    with torch.no_grad():
        base = clip_logp(reference, clips)
    return clip_logp(policy, clips) - base


PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def train_direct(
    task: Task, cfg: DirectConfig, clone_cfg: CloneConfig, hidden: tuple[int, ...], pair_loss: PairLoss
) -> Iterator[Progress]:
    """The direct family's loop: the clone is the start and the reference, `pair_loss` what a paper proposes.

    pair_loss maps the beta-scaled log ratios of winning and losing clips and the weights, each (L, n), to (L,).
    """
    task.require_pairs()
    policy = clone(task, clone_cfg, hidden)
    reference = policy.clone_of()
    params = mean_parameters(policy)
    opt = Adam(params, cfg.lr)

    def implicit_reward(obs: Tensor, act: Tensor) -> Tensor:
        with torch.no_grad():
            return cfg.beta * (step_logp(policy, obs, act) - step_logp(reference, obs, act))

    yield Progress(reference, {})
    for _ in task.iterations(policy=policy, reference=reference, opt=opt):
        win, lose, weight = task.pairs(cfg.pair_steps)
        h_win, h_lose = (cfg.beta * log_ratios(policy, reference, side) for side in (win, lose))
        loss = pair_loss(h_win, h_lose, weight)  # type: ignore[arg-type]
        opt.descend(loss)
        info = {"loss": loss, "h_win": h_win.mean(-1), "h_lose": h_lose.mean(-1)}
        yield Progress(policy, {name: x.detach() for name, x in info.items()}, implicit_reward)
