"""Preferences that need not come from one reward: a model of comparisons that may go in a circle."""

from __future__ import annotations

import torch
from torch import Tensor

from aihf_control.data import Clips
from aihf_control.lanes import Random
from aihf_control.learned import LearnedReward, RewardConfig
from aihf_control.nets import Features
from aihf_control.rewards import bradley_terry, gradient_penalty
from aihf_control.task import Task


class GeneralPreference:
    """P(a > b) = sigmoid((R(a) - R(b) + e(a)' S e(b)) / tau), for clips a and b: R the mean reward of a clip's steps, e
    their mean features, S antisymmetric, so that P(a > b) + P(b > a) = 1 (Zhang et al., arXiv 2410.02197).

    A step of a adds (r(s, a) + e(s, a)' S e(b)) / tau to the logit over a clip's length, and the rest is b's alone. So,
    called, this is a reward, (L, B, O), (L, B, A) to (L, B), against the opponent that it last faced. The absorbing
    state pays nothing and has no features.
    """

    def __init__(self, task: Task, cfg: RewardConfig, n_features: int):
        self.task, self.cfg, self.r = task, cfg, LearnedReward(task, cfg)
        self.net = Features(task.dims, cfg.hidden, n_features)
        self.net.units.set(*task.units())
        self.opt = torch.optim.Adam(self.net.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
        self.rng = Random(task.dims, "circles")
        self.opponent = torch.zeros(task.dims.n_lanes, n_features, device=task.dims.device)

    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.r(obs, act) + self.against(self.net.inputs(obs, act), self.opponent)

    def against(self, inputs: Tensor, opponent: Tensor) -> Tensor:
        """e(s, a)' S e(b), (L, B), of steps (L, B, O + A) and the features of an opponent, (L, F)."""
        return torch.bmm(self.net(inputs), torch.bmm(self.net.skew(), opponent[..., None])).squeeze(-1)

    def features(self, clips: Clips) -> Tensor:
        """e of clips, (L, n, F)."""
        steps = self.net(self.net.inputs(clips.obs.flatten(1, 2), clips.act.flatten(1, 2)))
        return (steps.view(*clips.real.shape, -1) * clips.real[..., None]).mean(2)

    def logit(self, a: Clips, b: Clips) -> Tensor:
        """logit P(a > b), (L, n)."""
        circle = (torch.bmm(self.features(a), self.net.skew()) * self.features(b)).sum(-1)
        return self.r.clip_returns(*a) - self.r.clip_returns(*b) + circle / self.cfg.tau

    def fit(self, updates: int) -> None:
        """Learns from the comparisons."""
        for _ in range(updates):
            win, lose, weight = self.task.comparisons().draw(self.cfg.pair_steps)
            logit = self.logit(win, lose)
            penalty = self.r.clip_penalty() + self._penalty(self.features(lose).mean(1))
            self.opt.zero_grad()
            self.r.descend(bradley_terry(logit, torch.zeros_like(logit), weight) + penalty)
            self.opt.step()
            self.r.recentre()

    def face(self, rivals: Clips) -> None:
        """From now on these clips are the opponent."""
        with torch.no_grad():
            self.opponent.copy_(self.features(rivals).mean(1))

    def _penalty(self, opponent: Tensor) -> Tensor:
        """The gradient penalty on what is paid against an opponent, between steps of the compared clips, (L,)."""
        clips = self.task.clips
        assert clips, "whoever learns from comparisons has their clips"
        a, b = (self.net.inputs(x.obs, x.act) for x in (clips.sample(self.cfg.batch) for _ in range(2)))
        mixing = self.rng.uniform(a.shape[1], 1)
        return self.cfg.penalty * gradient_penalty(lambda x: self.against(x, opponent), a, b, mixing)

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("r", "net", "opt", "rng")}
        return parts | {"opponent": self.opponent}

    def load_state_dict(self, state: dict) -> None:
        self.opponent.copy_(state["opponent"])
        for name in ("r", "net", "opt", "rng"):
            getattr(self, name).load_state_dict(state[name])
