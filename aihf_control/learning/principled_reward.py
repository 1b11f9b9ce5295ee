"""A reward that takes principles as an input, and its fit to a judge's opinion."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aihf_control.core.progress import counted
from aihf_control.core.types import Clips
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random
from aihf_control.models.losses import bradley_terry, clip_return, gradient_penalty
from aihf_control.models.networks import RewardNet

MOST = 3  # principles of a pair


def draw_principles(u: Tensor) -> Tensor:
    """Return principles (..., m): random signs for one to `MOST` random ones, 0 for the others.

    `u` (..., 2 m + 1) are uniform numbers: which principles, their signs, and how many.
    """
    m = u.shape[-1] // 2
    which, sign, count = u.split((m, m, 1), -1)
    among = which.argsort(-1).argsort(-1) < (count * MOST).floor() + 1
    return torch.where(among, torch.where(sign < 0.5, -1.0, 1.0), 0.0)


def decide(gaps: Tensor, principles: Tensor) -> Tensor:
    """Return 1 where the first of a pair wins, -1 where the second does, 0 where the judge sees no difference, (...).

    The principle in force with the largest gap decides; gaps and principles have shape (..., m).
    """
    strength = torch.where(principles != 0, gaps.abs(), -1.0)
    decisive = strength.argmax(-1, keepdim=True)
    return (gaps * principles).gather(-1, decisive).squeeze(-1).sign()


class PrincipledReward:
    """A reward network of observation, action and principles c (L, m), and its optimiser.

    The alive bonus stays at its initial value, and the reward is neither centred nor bounded: its level is that of the
    network, which comparisons of segments with a fall determine. The judge makes no mistakes.
    """

    def __init__(self, task: Task, cfg: RewardConfig, opinion: Tensor):
        self.task, self.cfg, self.opinion = task, cfg, opinion
        self.pairs, self.m = task.comparisons(), opinion.shape[-1]
        self.dims = dataclasses.replace(task.dims, n_act=task.dims.n_act + self.m)
        self.net = RewardNet(self.dims, cfg.hidden, cfg.alive, cfg.alive_bound)
        self.net.units.set(*task.compute_obs_stats())
        body = [p for name, p in self.net.named_parameters() if name != "alive"]
        self.opt = torch.optim.Adam(body, cfg.lr, weight_decay=cfg.weight_decay)
        self.rng = Random(task.dims, "principles")

    def fit(self, updates: int) -> None:
        """Train on pairs with random principles for `updates` steps."""
        for _ in counted(updates, "fitting the reward"):
            loss = self.pair_term(self.cfg.pair_steps) + self._penalty()
            self.opt.zero_grad()
            loss.sum().backward()
            self.opt.step()

    def pair_term(self, n_steps: int) -> Tensor:
        """Return the Bradley-Terry loss, (L,), of pairs with `n_steps` steps in total, with random principles."""
        n = max(1, n_steps // (2 * (self.pairs.length // self.pairs.stride)))
        n_pairs = torch.full((self.dims.n_lanes,), self.pairs.n, device=self.dims.device)
        index = self.rng.integers(n_pairs, n)
        c = draw_principles(self.rng.uniform(n, 2 * self.m + 1))
        gaps = self.opinion.gather(1, index[..., None].expand(-1, -1, self.m))
        one, other, _ = self.pairs.read(index)
        margin = self.clip_returns(one, c) - self.clip_returns(other, c)
        winner = decide(gaps, c)
        return bradley_terry(winner * margin, torch.zeros_like(margin), winner.abs())

    def clip_returns(self, clips: Clips, principles: Tensor) -> Tensor:
        """Return the returns of segments, each with its principles (L, n, m), in logits of Bradley-Terry, (L, n)."""
        c = principles[:, :, None].expand(*clips.act.shape[:3], self.m)
        inputs = torch.cat([clips.act, c], -1)
        reward = self.net(clips.obs.flatten(1, 2), inputs.flatten(1, 2)).view(clips.real.shape)
        return clip_return(reward, clips.real, self.cfg.tau)

    @torch.no_grad()
    def steer(self, principles: Tensor) -> RewardNet:
        """Return the reward for these principles (m,), a network of observation and action alone.

        The principles' inputs are added to the first bias.
        """
        dims = self.task.dims
        net = RewardNet(dims, self.cfg.hidden, self.cfg.alive, self.cfg.alive_bound)
        state = dict(self.net.state_dict())
        weight, n = state["body.layers.0.weight"], dims.n_obs + dims.n_act
        state["body.layers.0.bias"] = state["body.layers.0.bias"] + (principles @ weight[:, n:])[:, None]
        state["body.layers.0.weight"] = weight[:, :n]
        net.load_state_dict(state)
        return net

    def _penalty(self) -> Tensor:
        """Return the gradient penalty between steps of the compared segments, with random principles, (L,)."""
        clips = self.task.clips
        assert clips, "this penalty needs comparisons"
        c = draw_principles(self.rng.uniform(self.cfg.batch, 2 * self.m + 1))
        a, b = (self.net.inputs(x.obs, torch.cat([x.act, c], -1)) for x in map(clips.sample, [self.cfg.batch] * 2))
        mixing = self.rng.uniform(self.cfg.batch, 1)
        return self.cfg.penalty * gradient_penalty(self.net.smooth_features, a, b, mixing, self.cfg.slope)
