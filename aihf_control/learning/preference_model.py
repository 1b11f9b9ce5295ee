"""Preferences that need not come from one reward: a model of comparisons that may go in a circle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.reward_model import RewardConfig, RewardModel, decay_schedule
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.losses import bradley_terry, gradient_penalty
from aihf_control.models.networks import Body, Linear, ObsNormalizer

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the circle, among which the comparisons that are kept back choose


class PreferenceModel:
    """P(a > b) = sigmoid((R(a) - R(b) + s e(a)' S e(b)) / tau) for clips a and b: R the mean reward of a clip's steps,
    e their mean features, S antisymmetric, so that P(a > b) + P(b > a) = 1 (Zhang et al., arXiv 2410.02197).

    The circle e' S e can also say what R says, and what the annotator's doubts have said by chance. So R is learned
    first and alone; the circle learns from four fifths of the comparisons what R leaves over; and its share s of each
    lane is that under which the last fifth is likeliest: 0 where the circle explains nothing that it was not shown.

    A step of a adds (r(s, a) + s e(s, a)' S e(b)) / tau to the logit over a clip's length, and the rest is b's alone.
    So, called, this is a reward, (L, B, O), (L, B, A) to (L, B), against the opponent that it last faced. The absorbing
    state pays nothing and has no features.
    """

    def __init__(self, task: Task, cfg: RewardConfig, n_features: int):
        self.task, self.cfg, self.r = task, cfg, RewardModel(task, cfg)
        self.net = Features(task.dims, cfg.hidden, n_features)
        self.net.units.set(*task.units())
        self.opt = torch.optim.Adam(self.net.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
        self.pace = decay_schedule(self.opt, cfg)
        self.rng = Random(task.dims, "circles")
        self.share = torch.ones(task.dims.n_lanes, 1, device=task.dims.device)
        self.opponent = torch.zeros(task.dims.n_lanes, n_features, device=task.dims.device)

    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.r(obs, act) + self.share * self.against(self.net.inputs(obs, act), self.opponent)

    def against(self, inputs: Tensor, opponent: Tensor) -> Tensor:
        """e(s, a)' S e(b), (L, B), of steps (L, B, O + A) and the features of an opponent, (L, F)."""
        return torch.bmm(self.net(inputs), torch.bmm(self.net.skew(), opponent[..., None])).squeeze(-1)

    def features(self, clips: Clips) -> Tensor:
        """e of clips, (L, n, F)."""
        steps = self.net(self.net.inputs(clips.obs.flatten(1, 2), clips.act.flatten(1, 2)))
        return (steps.unflatten(1, clips.real.shape[1:]) * clips.real[..., None]).mean(2)

    def logit(self, a: Clips, b: Clips) -> Tensor:
        """logit P(a > b), (L, n)."""
        return self.ordered(a, b) + self.share * self.circle(a, b)

    def ordered(self, a: Clips, b: Clips) -> Tensor:
        """What R says of it, (L, n)."""
        return self.r.clip_returns(*a) - self.r.clip_returns(*b)

    def circle(self, a: Clips, b: Clips) -> Tensor:
        """e(a)' S e(b) / tau, (L, n)."""
        return (torch.bmm(self.features(a), self.net.skew()) * self.features(b)).sum(-1) / self.cfg.tau

    def fit(self, updates: int) -> None:
        """Learns from the comparisons: as many gradient steps of the reward, as RLHF's, and then of the circle."""
        self.r.fit(updates)
        pairs = self.task.comparisons()
        order = self.rng.uniform(pairs.n).argsort(1)
        shown, kept_back = order.split([pairs.n - pairs.n // 5, pairs.n // 5], 1)
        for _ in range(updates):
            self.descend(pairs.draw(self.cfg.pair_steps, shown))
        self.share.copy_(self.likeliest(pairs.at(kept_back)))

    def descend(self, pairs: Preferences) -> None:
        """A gradient step of the circle, whole, on these pairs."""
        win, lose, weight = pairs
        with torch.no_grad():
            ordered = self.ordered(win, lose)
        loss = bradley_terry(ordered + self.circle(win, lose), torch.zeros_like(ordered), weight)
        self.opt.zero_grad()
        (loss + self.penalty(self.features(lose).mean(1))).sum().backward()
        self.opt.step()
        self.pace.step()

    @torch.no_grad()
    def likeliest(self, pairs: Preferences) -> Tensor:
        """Of each lane the share of the circle under which these pairs are likeliest, (L, 1); the least of equals."""
        win, lose, weight = pairs
        ordered, circle = self.ordered(win, lose), self.circle(win, lose)
        losses = [bradley_terry(ordered + s * circle, torch.zeros_like(ordered), weight) for s in SHARES]
        return torch.tensor(SHARES, device=weight.device)[torch.stack(losses).argmin(0)][:, None]

    def penalty(self, opponent: Tensor) -> Tensor:
        """The gradient penalty on what is paid against an opponent, between steps of the compared clips, (L,)."""
        clips = self.task.clips
        assert clips, "whoever learns from comparisons has their clips"
        a, b = (self.net.inputs(x.obs, x.act) for x in (clips.sample(self.cfg.batch) for _ in range(2)))
        mixing = self.rng.uniform(a.shape[1], 1)
        return self.cfg.penalty * gradient_penalty(lambda x: self.against(x, opponent), a, b, mixing)

    def set_opponent(self, rivals: Clips) -> None:
        """From now on these clips are the opponent."""
        with torch.no_grad():
            self.opponent.copy_(self.features(rivals).mean(1))

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("r", "net", "opt", "pace", "rng")}
        return parts | {"share": self.share, "opponent": self.opponent}

    def load_state_dict(self, state: dict) -> None:
        self.share.copy_(state["share"])
        self.opponent.copy_(state["opponent"])
        for name in ("r", "net", "opt", "pace", "rng"):
            getattr(self, name).load_state_dict(state[name])


class Features(nn.Module):
    """Bounded features of steps, and an antisymmetric form between them: what `general.py` compares clips by."""

    def __init__(self, dims: Dims, hidden: tuple[int, ...], n: int):
        super().__init__()
        rng = Random(dims, "features")
        self.units = ObsNormalizer(dims)
        self.body = Body(rng, dims.n_obs + dims.n_act, hidden)
        self.out = Linear(rng, hidden[-1], n)
        self.form = nn.Parameter(torch.zeros(dims.n_lanes, n, n, device=dims.device))

    def inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return the input of the features, (L, B, O + A)."""
        return torch.cat([self.units(obs), act], -1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (L, B, n), between -1 and 1."""
        for layer in [*self.body.layers, self.out]:
            inputs = layer(inputs).tanh()
        return inputs

    def skew(self) -> Tensor:
        """The form, (L, n, n). Zero at first, so that nothing goes in a circle before the data say so."""
        return self.form - self.form.transpose(1, 2)
