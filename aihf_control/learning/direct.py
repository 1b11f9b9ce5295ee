"""Policies from data alone: cloning, and what the methods share that learn from comparisons without a reward.

A density for their losses has to survive pairs of actions at the bounds, where the squashed Gaussian's is infinite, and
must not reward its own collapse. So, as contrastive preference learning does (arXiv 2310.13639), the log density of an
action here is  -|a - tanh(mean(s))|^2:  a Gaussian of fixed deviation around the greedy action, up to a constant.

The logit of a pair is then linear in the greedy action, and a loss that always wants more runs to the actions' bounds.
What stands against it: the anchors of RPO, AIHF-DPO and SLiC, the finite margin of IPO, the bias of CPL. The log shows
it: `saturated` is the share of actions at their bounds, `logp_win` and `logp_lose` whether both likelihoods fall. The
deviation, of which the exploration is made, is not trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from aihf_control.core.errors import at_least_one
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.bc import CloneConfig, _logp, clone, mean_parameters, step_logp
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.task import Progress, Task
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam

SATURATED = 0.99  # an action is at its bound


@dataclasses.dataclass(frozen=True)
class DirectConfig:
    """Settings of the direct methods' gradient steps."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    beta: float = 50.0
    """How strongly a log ratio to the reference, averaged over a clip's steps, speaks for a clip. The larger it is, the
    nearer to the reference a loss is content: at 5, DPO undid its clone (`experiments/tuning.md`)."""
    lr: float = 3e-5
    """Adam's learning rate."""
    pair_steps: int = 3200
    """Steps of the compared clips in one gradient step: 32 pairs of clips of 50, 16 of whole trajectories, of which
    every tenth step is looked at."""

    def __post_init__(self):
        at_least_one({"--direct.pair-steps": self.pair_steps})


def clip_logp(policy: Policy, clips: Clips) -> Tensor:
    """Log density a step of clips, (L, n); steps after termination count as nothing."""
    return _clip_logp(_greedy(policy, clips), clips)


def _greedy(policy: Policy, clips: Clips) -> Tensor:
    """The greedy action of every step of clips, (L, n, K, A)."""
    return policy.greedy(clips.obs.flatten(1, 2)).view(clips.act.shape)


def _clip_logp(greedy: Tensor, clips: Clips) -> Tensor:
    return (_logp(greedy, clips.act) * clips.real).mean(-1)


class PairScores(NamedTuple):
    """What a policy says of n compared pairs, each (L, n): log densities a step, and h = beta log(pi / reference)."""

    logp_win: Tensor
    logp_lose: Tensor
    h_win: Tensor
    h_lose: Tensor
    weight: Tensor


class DirectTrainer:
    """A policy that begins as the clone, the reference that it is measured against, and its optimiser."""

    def __init__(self, task: Task, cfg: DirectConfig, clone_cfg: CloneConfig):
        self.task, self.cfg = task, cfg
        self.policy = clone(task, clone_cfg, cfg.hidden)
        self.reference = self.policy.frozen_copy()
        self.opt = Adam(mean_parameters(self.policy), cfg.lr)

    def sides(self, pairs: Preferences) -> PairScores:
        """Log densities and log ratios of pairs of clips."""
        win, lose, weight = pairs
        greedy = [_greedy(self.policy, side) for side in (win, lose)]
        self.saturated = (torch.cat(greedy, 1).detach().abs() > SATURATED).float().mean((1, 2, 3))
        logp = [_clip_logp(a, side) for a, side in zip(greedy, (win, lose), strict=True)]
        with torch.no_grad():
            base = [clip_logp(self.reference, side) for side in (win, lose)]
        h = [self.cfg.beta * (x - b) for x, b in zip(logp, base, strict=True)]
        return PairScores(logp[0], logp[1], h[0], h[1], weight)

    def demo_loss(self) -> Tensor:
        """-log pi(a | s) on a batch of the demonstrations, (L,)."""
        batch = self.task.demos.sample(max(1, self.cfg.pair_steps // 2))
        return -step_logp(self.policy, batch.obs, batch.act).mean(-1)

    def descend(self, loss: Tensor) -> None:
        """A gradient step of the policy, loss (L,)."""
        self.opt.descend(loss)

    def move_reference(self, policy: Policy) -> None:
        """Moves the reference to where a policy is now."""
        self.reference.load_state_dict(policy.state_dict())

    def progress(self, loss: Tensor, sides: PairScores) -> Progress:
        """What to yield after a gradient step."""
        info = {"loss": loss, "margin": (sides.h_win - sides.h_lose).mean(-1), "saturated": self.saturated}
        info |= {"logp_win": sides.logp_win.mean(-1), "logp_lose": sides.logp_lose.mean(-1)}
        return Progress(self.policy, {name: x.detach() for name, x in info.items()}, ImplicitReward(self))

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in ("policy", "reference", "opt")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@dataclasses.dataclass(frozen=True)
class ImplicitReward:
    """The reward for which a trainer's policy would be optimal: beta log(pi / reference) of steps, (L, B)."""

    trainer: DirectTrainer

    @torch.no_grad()
    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        t = self.trainer
        return t.cfg.beta * (step_logp(t.policy, obs, act) - step_logp(t.reference, obs, act))

    def export(self) -> None:
        """It is not saved: the policy holds all of it."""
        return


def train_direct(
    task: Task, pairs: PreferenceBuffer, trainer: DirectTrainer, loss_of: Callable[[PairScores], Tensor]
) -> Iterator[Progress]:
    """The offline methods' loop: `loss_of` is what a paper proposes, a loss (L,) of compared pairs."""
    yield Progress(trainer.reference, {})
    for _ in task.iterations(trainer=trainer):
        sides = trainer.sides(pairs.draw(trainer.cfg.pair_steps))
        loss = loss_of(sides)
        trainer.descend(loss)
        yield trainer.progress(loss, sides)
