"""The policy update of methods that learn from comparisons without a reward model.

Their losses need a density that is finite for actions at the bounds, where that of a squashed Gaussian is infinite, and
that does not grow as the standard deviation shrinks. Therefore, as in contrastive preference learning (arXiv
2310.13639), the log density of an action is  -|a - tanh(mean(s))|^2:  a Gaussian of constant standard deviation around
the greedy action, up to a constant. The standard deviation of the policy, used for exploration, is not trained.

The logit of a pair is then linear in the greedy action, so a loss without a minimum drives actions to their bounds. The
anchors of RPO, AIHF-DPO and SLiC, the finite margin of IPO and the bias of CPL counteract this. In the log, `saturated`
is the share of actions at their bounds, and `logp_win` and `logp_lose` show whether both likelihoods fall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one, check_widths
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.bc import CloneConfig, action_logp, clone, mean_parameters, step_logp
from aihf_control.learning.imitated import SOURCES, ActionSampler
from aihf_control.learning.preference_buffer import PreferenceBuffer
from aihf_control.learning.task import Progress, Task
from aihf_control.models.networks import Policy
from aihf_control.models.optim import Adam

SATURATED = 0.99  # size from which an action counts as at its bound


@dataclasses.dataclass(frozen=True)
class DirectConfig:
    """Settings of the gradient steps, common to all direct methods."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the policy's hidden layers."""
    beta: float = 50.0
    """Factor of the log ratio to the reference, averaged over a segment's steps, in the logit of a pair. A larger one
    keeps the policy closer to the reference: with 5, DPO lost what its clone had learned (`experiments/tuning.md`)."""
    beta_sum: float = 0.0
    """Factor of the log ratio summed over a segment's steps, as in the papers: a segment of K steps has the beta K
    `beta_sum`, so the strength of the reference does not depend on the segments' length. At most 100 steps of a longer
    segment are read and summed. 0: `beta`."""
    lr: float = 3e-5
    """Adam's learning rate."""
    pair_steps: int = 3200
    """Environment steps of compared segments per gradient step: 32 pairs of segments of 50 steps, or 16 pairs of whole
    trajectories, which are subsampled to every tenth step."""

    def __post_init__(self):
        check_widths("--direct.hidden", self.hidden)
        at_least_one({"--direct.pair-steps": self.pair_steps})
        if self.beta_sum < 0:
            raise BadInput(f"--direct.beta-sum must be at least 0, got {self.beta_sum}")

    def beta_of(self, n_steps: int) -> float:
        """Return the factor of the mean log ratio of segments of `n_steps` steps."""
        return self.beta_sum * n_steps or self.beta


def clip_logp(policy: Policy, clips: Clips) -> Tensor:
    """Return the mean log density of a segment's steps, (L, n); steps after termination count as 0."""
    return _mean_logp(_greedy_actions(policy, clips), clips)


def _greedy_actions(policy: Policy, clips: Clips) -> Tensor:
    """Return the greedy action of every step of segments, (L, n, K, A)."""
    return policy.greedy(clips.obs.flatten(1, 2)).view(clips.act.shape)


def _mean_logp(greedy: Tensor, clips: Clips) -> Tensor:
    return (action_logp(greedy, clips.act) * clips.real).mean(-1)


class PairScores(NamedTuple):
    """Scores of n compared pairs, each (L, n): mean log densities, h = beta log(pi / reference), and beta."""

    logp_win: Tensor
    logp_lose: Tensor
    h_win: Tensor
    h_lose: Tensor
    weight: Tensor
    beta: float
    """Factor of the mean log density of these segments."""


class DirectTrainer:
    """A policy that starts as the clone, its reference, which is the clone until moved, and its optimiser."""

    def __init__(self, task: Task, cfg: DirectConfig, clone_cfg: CloneConfig):
        self.task, self.cfg = task, cfg
        self.policy, self.cloned = clone(task, clone_cfg, cfg.hidden), SOURCES[clone_cfg.on](task)
        self.reference = self.policy.frozen_copy()
        self.opt = Adam(mean_parameters(self.policy), cfg.lr)

    def score(self, pairs: Preferences) -> PairScores:
        """Return the scores of compared pairs, and measure the share of saturated actions."""
        win, lose, weight = pairs
        greedy = [_greedy_actions(self.policy, side) for side in (win, lose)]
        self.saturated = (torch.cat(greedy, 1).detach().abs() > SATURATED).float().mean((1, 2, 3))
        logp = [_mean_logp(a, side) for a, side in zip(greedy, (win, lose), strict=True)]
        with torch.no_grad():
            base = [clip_logp(self.reference, side) for side in (win, lose)]
        beta = self.cfg.beta_of(win.real.shape[-1])
        h = [beta * (x - b) for x, b in zip(logp, base, strict=True)]
        return PairScores(logp[0], logp[1], h[0], h[1], weight, beta)

    def demo_loss(self) -> Tensor:
        """Return -log pi(a | s) on a batch of the demonstrations, (L,)."""
        return self._clone_loss(self.task.demos)

    def cloned_loss(self) -> Tensor:
        """Return -log pi(a | s) on a batch of the data that the clone was trained on, (L,)."""
        return self._clone_loss(self.cloned)

    def _clone_loss(self, data: ActionSampler) -> Tensor:
        batch = data.sample(max(1, self.cfg.pair_steps // 2))
        return -step_logp(self.policy, batch.obs, batch.act).mean(-1)

    def descend(self, loss: Tensor) -> None:
        """Take a gradient step of the policy on a loss (L,)."""
        self.opt.descend(loss)

    def move_reference(self, policy: Policy) -> None:
        """Copy the weights of a policy to the reference."""
        self.reference.load_state_dict(policy.state_dict())

    def report(self, loss: Tensor, scores: PairScores) -> Progress:
        """Return what to yield after a gradient step: the policy, scalars for the log, the implicit reward."""
        info = {"loss": loss, "margin": (scores.h_win - scores.h_lose).mean(-1), "saturated": self.saturated}
        info |= {"logp_win": scores.logp_win.mean(-1), "logp_lose": scores.logp_lose.mean(-1)}
        return Progress(self.policy, {name: x.detach() for name, x in info.items()}, ImplicitReward(self))

    def rest(self) -> Progress:
        """Return what to yield without a gradient step."""
        return Progress(self.policy, {}, ImplicitReward(self))

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in ("policy", "reference", "opt")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)


@dataclasses.dataclass(frozen=True)
class ImplicitReward:
    """The reward for which a trainer's policy would be optimal: beta log(pi / reference) of steps, (L, B).

    Its mean over a segment is the segment's logit; with `beta_sum`, its sum.
    """

    trainer: DirectTrainer

    @torch.no_grad()
    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        t = self.trainer
        return t.cfg.beta_of(1) * (step_logp(t.policy, obs, act) - step_logp(t.reference, obs, act))

    def export(self) -> None:
        """Return None: the reward is not saved, as it follows from the policies."""
        return


def train_direct(
    task: Task, pairs: PreferenceBuffer, trainer: DirectTrainer, loss_of: Callable[[PairScores], Tensor]
) -> Iterator[Progress]:
    """Run the loop of offline direct methods; `loss_of` is a paper's loss (L,) of the scores of compared pairs."""
    yield Progress(trainer.reference, {})
    for _ in task.iterations(trainer=trainer):
        scores = trainer.score(pairs.draw(trainer.cfg.pair_steps))
        loss = loss_of(scores)
        trainer.descend(loss)
        yield trainer.report(loss, scores)
