"""A learned reward: its network, its optimiser, and the terms of its loss on a task's data."""

from __future__ import annotations

import copy
import dataclasses
from typing import Protocol, Self

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, at_least_one, check_widths
from aihf_control.core.progress import counted
from aihf_control.core.types import Preferences
from aihf_control.learning.replay import Batch, Buffer, Sampler
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random
from aihf_control.models.losses import bradley_terry, clip_return, demo_gap, gradient_penalty
from aihf_control.models.networks import RewardNet
from aihf_control.models.reward_state import RewardState, of_network


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Settings of the learned reward, common to all methods that have one."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    actions: bool = False
    """Whether the reward depends on the action. If it does, it can tell the agent from the demonstrations by the noise
    of its actions."""
    lr: float = 3e-4
    """Adam's learning rate for the network."""
    decay: float = 1000.0
    """Reward steps in which the learning rates fall by a factor of sqrt(2): eta_k = eta_0 / sqrt(1 + k / decay), the
    schedule of Algorithm 1 of AIHF with s = 1/2."""
    weight_decay: float = 1e-3
    """Weight decay of the network."""
    alive: float = 1.0
    """Initial alive bonus per step; it is learned."""
    alive_bound: float = 2.0
    """Bound of the alive bonus."""
    span: float = 0.0
    """Largest difference of a step's reward from the alive bonus; 0: unbounded. A bound leaves the reward without a
    slope between the agent and a demonstrator that is far away."""
    alive_lr: float = 1e-3
    """Adam's learning rate for the alive bonus."""
    batch: int = 256
    """Environment steps of the agent, and of the demonstrations, per reward step."""
    pair_steps: int = 3200
    """Environment steps of compared segments per reward step: 32 pairs of segments of 50 steps, or 16 pairs of whole
    trajectories, which are subsampled to every tenth step."""
    last: int = 10_000
    """Last steps of the agent's replay buffer from which its batch is drawn."""
    slope: float = 0.1
    """Largest norm of the reward's gradient, in standard deviations of the observations, that is not penalised."""
    penalty: float = 10.0
    """Weight of the gradient penalty."""
    tau: float = 0.02
    """Temperature of the Bradley-Terry model: the difference in reward per step that equals one logit."""
    mistakes: float = 0.1
    """Share of comparisons that are expected to be wrong, however clear they are. Without it, a few wrong labels make
    all rewards small, and the alive bonus with them."""

    def __post_init__(self):
        check_widths("--reward.hidden", self.hidden)
        if not -self.alive_bound < self.alive < self.alive_bound:
            raise BadInput(
                f"--reward.alive {self.alive}: its size must be below --reward.alive-bound {self.alive_bound}"
            )
        at_least_one({"--reward.batch": self.batch, "--reward.pair-steps": self.pair_steps, "--reward.last": self.last})
        if self.tau <= 0 or self.decay <= 0:
            raise BadInput("--reward.tau and --reward.decay must be above 0")
        if self.slope <= 0:
            raise BadInput(f"--reward.slope must be above 0, got {self.slope}")
        if not 0 <= self.mistakes < 0.5 or self.span < 0:
            given = f"got {self.mistakes} and {self.span}"
            raise BadInput(f"--reward.mistakes must be from 0 to below 0.5 and --reward.span at least 0, {given}")


PAPERS_REWARD = RewardConfig(actions=True, slope=1.0, mistakes=0.0)
"""A reward r(s, a) with the plain Bradley-Terry model, as in the paper of AIHF."""


class AbsorbingSampler(Sampler, Protocol):
    """A source of transitions of episodes that end in the absorbing state."""

    absorbed: Tensor
    """Share of absorbing steps if the episodes are padded, (L,)."""


def decay_schedule(opt: torch.optim.Optimizer, cfg: RewardConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule that lowers the learning rates by `decay`."""
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda k: (1 + k / cfg.decay) ** -0.5)


class RewardModel:
    """A reward network and its optimiser. A call returns the reward: (L, B, O), (L, B, A) to (L, B)."""

    def __init__(self, task: Task, cfg: RewardConfig):
        self.task, self.cfg = task, cfg
        self.net = RewardNet(task.dims, cfg.hidden, cfg.alive, cfg.alive_bound, cfg.span, cfg.actions)
        self.net.units.set(*task.compute_obs_stats())
        body = [p for name, p in self.net.named_parameters() if name != "alive"]
        groups = [{"params": body, "weight_decay": cfg.weight_decay}, {"params": [self.net.alive], "lr": cfg.alive_lr}]
        self.opt = torch.optim.Adam(groups, cfg.lr)
        self.pace = decay_schedule(self.opt, cfg)
        self.rng = Random(task.dims, "reward steps")

    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.net(obs, act)

    def frozen_copy(self) -> Self:
        """Return a copy that does not change any more and has no gradients."""
        copied = copy.copy(self)
        copied.net = copy.deepcopy(self.net).requires_grad_(False)
        return copied

    def export(self) -> RewardState:
        """Return the data that rebuilds the reward."""
        return of_network(self.net)

    def demo_term(self, buffer: Buffer, demos: AbsorbingSampler | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss of L1 per step, and the gradient penalty between agent and demonstrations, each (L,).

        `demos` replaces the demonstrations.

        The agent's expectation uses two windows: its steps before termination are drawn from the last `last` ones, and
        its share of absorbing steps is that of its last finished episodes.
        """
        x_agent, x_demo = self._sample_inputs(buffer, demos)
        g_demo, g_agent = self.net.features(x_demo), self.net.features(x_agent)
        absorbed = self.task.absorbed, demos.absorbed if demos else self.task.demo_absorbed
        gap = demo_gap(self.net.level(g_agent), self.net.level(g_demo), *absorbed)
        self.net.recentre(g_demo)
        return gap, self._penalty(x_agent, x_demo)

    def agent_term(self, buffer: Buffer) -> tuple[Tensor, Tensor]:
        """Return the agent's mean reward minus the demonstrations', per step, and the gradient penalty, each (L,).

        The alive bonus is left out: comparisons of segments without a fall do not determine it, so a term that raises
        the agent's reward would raise the bonus to its bound.
        """
        x_agent, x_demo = self._sample_inputs(buffer)
        g_agent, g_demo = self.net.features(x_agent), self.net.features(x_demo)
        gap = self.net.above_bonus(g_agent).mean(-1) - self.net.above_bonus(g_demo).mean(-1)
        self.net.recentre(g_demo)
        return (1 - self.task.absorbed) * gap, self._penalty(x_agent, x_demo)

    def pair_term(self, pairs: Preferences | None = None, among: Tensor | None = None) -> Tensor:
        """Return the loss of L2, (L,): Bradley-Terry on these pairs, or on a sample of the given comparisons.

        `among` (L, m): numbers of the comparisons to draw from, all by default.
        """
        win, lose, weight = pairs or self.task.comparisons().draw(self.cfg.pair_steps, among)
        return bradley_terry(self.clip_returns(*win), self.clip_returns(*lose), weight, self.cfg.mistakes)

    def clip_returns(self, obs: Tensor, act: Tensor, real: Tensor) -> Tensor:
        """Return the returns of segments in logits of Bradley-Terry, obs (L, n, K, O) to (L, n)."""
        reward = self(obs.flatten(1, 2), act.flatten(1, 2)).view(real.shape)
        return clip_return(reward, real, self.cfg.tau)

    def clip_penalty(self) -> Tensor:
        """Return the gradient penalty between steps of the compared segments, (L,)."""
        clips = self.task.clips
        assert clips, "this penalty needs comparisons"
        a, b = (self._inputs(clips.sample(self.cfg.batch)) for _ in range(2))
        return self._penalty(a, b)

    def recentre(self) -> None:
        """Move the zero of the reward towards its mean over the demonstrations."""
        self.net.recentre(self.net.features(self._inputs(self.task.demos.sample(self.cfg.batch))))

    def fit(self, updates: int, among: Tensor | None = None) -> None:
        """Train on the comparisons alone, as in the second stage of RLHF, for `updates` steps.

        `among` (L, m): numbers of the comparisons to use, all by default.
        """
        self.task.comparisons()  # counts the labels, also if the result is loaded

        def descend() -> None:
            for _ in counted(updates, "fitting the reward"):
                self.descend(self.pair_term(among=among) + self.clip_penalty())
                self.recentre()

        self.task.compute_once(("reward", self.cfg, updates, among), {"r": self}, descend)

    def descend(self, loss: Tensor) -> None:
        """Take a gradient step on a loss (L,), whose sum keeps the lanes independent."""
        self.opt.zero_grad()
        loss.sum().backward()
        self.opt.step()
        self.pace.step()

    def _sample_inputs(self, buffer: Buffer, demos: Sampler | None = None) -> tuple[Tensor, Tensor]:
        """Draw the network's inputs from the agent's last steps and from the demonstrations, each (L, B, ...)."""
        agent, demo = (
            buffer.sample_recent(self.cfg.batch, self.cfg.last),
            (demos or self.task.demos).sample(self.cfg.batch),
        )
        return self._inputs(agent), self._inputs(demo)

    def _inputs(self, batch: Batch) -> Tensor:
        return self.net.inputs(batch.obs, batch.act)

    def _penalty(self, a: Tensor, b: Tensor) -> Tensor:
        mixing = self.rng.uniform(a.shape[1], 1)
        return self.cfg.penalty * gradient_penalty(self.net.smooth_features, a, b, mixing, self.cfg.slope)

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in ("net", "opt", "pace", "rng")}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)
