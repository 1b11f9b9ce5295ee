"""A model of preferences that may be intransitive, that is, not those of any single reward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aihf_control.core.progress import counted
from aihf_control.core.types import Clips, Preferences
from aihf_control.learning.reward_model import RewardConfig, RewardModel, decay_schedule
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.losses import bradley_terry, gradient_penalty
from aihf_control.models.networks import Body, Linear, ObsNormalizer

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # candidate shares of the cyclic term, compared on held-out comparisons


class PreferenceModel:
    """P(a > b) = sigmoid((R(a) - R(b) + s e(a)' S e(b)) / tau) for segments a and b (Zhang et al., arXiv 2410.02197).

    R is the mean reward of a segment's steps, e their mean features, and S antisymmetric, so P(a > b) + P(b > a) = 1.

    The cyclic term e' S e can also fit what R explains, and noise of the annotator. Therefore R is trained first and
    alone, the cyclic term is trained on four fifths of the comparisons, and its share s in each lane is the one of
    `SHARES` with the highest likelihood of the last fifth, which is 0 if the term does not generalise.

    Each step of the first segment adds (r + s e' S e(b)) / tau, divided by the segment's length, to the logit; the rest
    depends on b alone. Therefore a call returns a reward, (L, B, O), (L, B, A) to (L, B), for the opponent b that was
    set last. The absorbing state has reward 0 and features 0.
    """

    def __init__(self, task: Task, cfg: RewardConfig, n_features: int):
        self.task, self.cfg, self.r = task, cfg, RewardModel(task, cfg)
        self.net = Features(task.dims, cfg.hidden, n_features)
        self.net.units.set(*task.compute_obs_stats())
        self.opt = torch.optim.Adam(self.net.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
        self.pace = decay_schedule(self.opt, cfg)
        self.rng = Random(task.dims, "circles")
        self.share = torch.ones(task.dims.n_lanes, 1, device=task.dims.device)
        self.opponent = torch.zeros(task.dims.n_lanes, n_features, device=task.dims.device)

    def __call__(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.r(obs, act) + self.share * self.cyclic_reward(self.net.inputs(obs, act), self.opponent)

    def cyclic_reward(self, inputs: Tensor, opponent: Tensor) -> Tensor:
        """Return e(s, a)' S e(b), (L, B), of steps (L, B, O + A) and an opponent's features, (L, F)."""
        return torch.bmm(self.net(inputs), torch.bmm(self.net.skew(), opponent[..., None])).squeeze(-1)

    def features(self, clips: Clips) -> Tensor:
        """Return the mean features e of segments, (L, n, F)."""
        steps = self.net(self.net.inputs(clips.obs.flatten(1, 2), clips.act.flatten(1, 2)))
        return (steps.unflatten(1, clips.real.shape[1:]) * clips.real[..., None]).mean(2)

    def logit(self, a: Clips, b: Clips) -> Tensor:
        """Return logit P(a > b), (L, n)."""
        return self.transitive_logit(a, b) + self.share * self.cyclic_logit(a, b)

    def transitive_logit(self, a: Clips, b: Clips) -> Tensor:
        """Return (R(a) - R(b)) / tau, (L, n)."""
        return self.r.clip_returns(*a) - self.r.clip_returns(*b)

    def cyclic_logit(self, a: Clips, b: Clips) -> Tensor:
        """Return e(a)' S e(b) / tau, (L, n)."""
        return (torch.bmm(self.features(a), self.net.skew()) * self.features(b)).sum(-1) / self.cfg.tau

    def fit(self, updates: int) -> None:
        """Train the reward as RLHF does, then the cyclic term, each for `updates` steps; choose the term's share."""
        self.r.fit(updates)
        pairs = self.task.comparisons()
        order = self.rng.uniform(pairs.n).argsort(1)
        train, held_out = order.split([pairs.n - pairs.n // 5, pairs.n // 5], 1)
        for _ in counted(updates, "fitting the preference model"):
            self.descend(pairs.draw(self.cfg.pair_steps, train))
        self.share.copy_(self.choose_share(pairs.read(held_out)))

    def descend(self, pairs: Preferences) -> None:
        """Take a gradient step of the cyclic term, with a share of 1, on these pairs."""
        win, lose, weight = pairs
        with torch.no_grad():
            transitive = self.transitive_logit(win, lose)
        loss = bradley_terry(
            transitive + self.cyclic_logit(win, lose), torch.zeros_like(transitive), weight, self.cfg.mistakes
        )
        self.opt.zero_grad()
        (loss + self.penalty(self.features(lose).mean(1))).sum().backward()
        self.opt.step()
        self.pace.step()

    @torch.no_grad()
    def choose_share(self, pairs: Preferences) -> Tensor:
        """Return each lane's share with the highest likelihood of these pairs, (L, 1); the smallest of equals."""
        win, lose, weight = pairs
        transitive, cyclic = self.transitive_logit(win, lose), self.cyclic_logit(win, lose)
        losses = [
            bradley_terry(transitive + s * cyclic, torch.zeros_like(transitive), weight, self.cfg.mistakes)
            for s in SHARES
        ]
        return torch.tensor(SHARES, device=weight.device)[torch.stack(losses).argmin(0)][:, None]

    def penalty(self, opponent: Tensor) -> Tensor:
        """Return the gradient penalty on the cyclic reward between steps of the compared segments, (L,)."""
        clips = self.task.clips
        assert clips, "a preference model needs comparisons"
        a, b = (self.net.inputs(x.obs, x.act) for x in (clips.sample(self.cfg.batch) for _ in range(2)))
        mixing, most = self.rng.uniform(a.shape[1], 1), self.cfg.slope
        return self.cfg.penalty * gradient_penalty(lambda x: self.cyclic_reward(x, opponent), a, b, mixing, most)

    @torch.no_grad()
    def set_opponent(self, clips: Clips) -> None:
        """Set the opponent to the mean features of segments."""
        self.opponent.copy_(self.features(clips).mean(1))

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("r", "net", "opt", "pace", "rng")}
        return parts | {"share": self.share, "opponent": self.opponent}

    def load_state_dict(self, state: dict) -> None:
        self.share.copy_(state["share"])
        self.opponent.copy_(state["opponent"])
        for name in ("r", "net", "opt", "pace", "rng"):
            getattr(self, name).load_state_dict(state[name])


class Features(nn.Module):
    """Bounded features of steps, and an antisymmetric bilinear form of them."""

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
        """Return features (L, B, n) between -1 and 1."""
        for layer in [*self.body.layers, self.out]:
            inputs = layer(inputs).tanh()
        return inputs

    def skew(self) -> Tensor:
        """Return the form, (L, n, n). Its initial value is 0: preferences start transitive."""
        return self.form - self.form.transpose(1, 2)
