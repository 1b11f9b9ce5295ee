"""Stacks of networks: one network a lane, evaluated together as one batched product.

Shapes: O observation size, A action size, L lanes, B batch. Every net maps (L, B, ...) to (L, B, ...). Actions are in
(-1, 1); the environment's own units begin at its door (`environments.py`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from aihf_control.models.functional import least, log_slope, perceptron, regress, squashed_sample
from aihf_control.models.lanes import Dims, Random

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # Stable-Baselines3's bounds, so that an exported policy samples alike


Net = TypeVar("Net", bound=nn.Module)


class Linear(nn.Module):
    """`L` linear layers side by side: (L, B, in) to (L, B, out); weight (L, in, out), bias (L, 1, out)."""

    def __init__(self, rng: Random, n_in: int, n_out: int):
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # torch.nn.Linear's own initialisation
        self.weight = nn.Parameter((rng.uniform(n_in, n_out) * 2 - 1) * bound)
        self.bias = nn.Parameter((rng.uniform(1, n_out) * 2 - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def pair(self) -> tuple[Tensor, Tensor]:
        weight, bias = self._parameters.values()  # a module's attributes are slow to look up
        return weight, bias  # type: ignore[return-value]


class Body(nn.Module):
    """Hidden layers."""

    def __init__(self, rng: Random, n_in: int, hidden: tuple[int, ...]):
        super().__init__()
        self.layers = nn.ModuleList(Linear(rng, a, b) for a, b in zip((n_in, *hidden), hidden, strict=False))

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of every layer."""
        return [layer.pair() for layer in self.layers]  # type: ignore[operator]


class ObsNormalizer(nn.Module):
    """Puts observations in units of a dataset's mean and standard deviation, each (L, 1, O). Identity at first."""

    mean: Tensor
    std: Tensor

    def __init__(self, dims: Dims):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims.n_lanes, 1, dims.n_obs, device=dims.device))
        self.register_buffer("std", torch.ones(dims.n_lanes, 1, dims.n_obs, device=dims.device))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """mean and std (L, O)."""
        self.mean.copy_(mean[:, None])
        self.std.copy_(std[:, None])

    def forward(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) / self.std


class Policy(nn.Module):
    """A Gaussian squashed by tanh, the actor of SAC (Haarnoja et al., arXiv 1812.05905).

    Fresh policies have mean near zero and deviation one before the squashing.
    """

    def __init__(self, dims: Dims, hidden: tuple[int, ...]):
        super().__init__()
        rng = Random(dims, "actor")
        self.units = ObsNormalizer(dims)
        self.body = Body(rng, dims.n_obs, hidden)
        self.mean = Linear(rng, hidden[-1], dims.n_act)
        self.log_std = Linear(rng, hidden[-1], dims.n_act)
        self.products = dims.products
        with torch.no_grad():
            self.log_std.weight.zero_()
            self.log_std.bias.zero_()

    def forward(self, obs: Tensor, products: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the squashing, each (L, B, A)."""
        mean, log_std = self._heads(obs, products).chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _heads(self, obs: Tensor, products: torch.dtype | None = None) -> Tensor:
        """Both, the latter not yet clamped, (L, B, 2 A)."""
        head = [torch.cat(both, -1) for both in zip(self.mean.pair(), self.log_std.pair(), strict=True)]
        return perceptron(self.units(obs), [*self.body.pairs(), (head[0], head[1])], products or self.products)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reparametrised action (L, B, A), its log density (L, B), and the action before the squashing."""
        return squashed_sample(self._heads(obs), noise, (LOG_STD_MIN, LOG_STD_MAX))

    def log_prob(self, obs: Tensor, raw: Tensor) -> Tensor:
        """Log density (L, B) of the action tanh(raw)."""
        mean, log_std = self(obs)
        gauss = -0.5 * ((raw - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return (gauss - log_slope(raw)).sum(-1)

    def greedy(self, obs: Tensor) -> Tensor:
        """The greedy action (L, B, A), with its gradient."""
        return self(obs)[0].tanh()

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions (L, B, A) in float32 products; greedy without noise."""
        mean, log_std = self(obs, torch.float32)
        return (mean if noise is None else mean + log_std.exp() * noise).tanh()

    def frozen_copy(self) -> Self:
        """A frozen copy."""
        return copy.deepcopy(self).requires_grad_(False)


class Mixture(nn.Module):
    """a^(1 - c) b^c of two policies' densities, normalised: between two Gaussians it is a Gaussian again, with the
    precisions added up and the means weighted by them, and the squashing is the same for all."""

    def __init__(self, a: Policy, b: Policy, c: float):
        super().__init__()
        self.b, self.c = b, c
        self.a = [a]  # another's, who keeps its state

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions (L, B, A) in float32 products; greedy without noise."""
        (mean_a, log_a), (mean_b, log_b) = (policy(obs, torch.float32) for policy in (self.a[0], self.b))
        sure_a, sure_b = (1 - self.c) * (-2 * log_a).exp(), self.c * (-2 * log_b).exp()
        mean = (sure_a * mean_a + sure_b * mean_b) / (sure_a + sure_b)
        return (mean if noise is None else mean + (sure_a + sure_b).rsqrt() * noise).tanh()


class TwinQ(nn.Module):
    """Two critics a lane, side by side, all in one product: (L, B, O), (L, B, A) to (L, 2, B)."""

    def __init__(self, dims: Dims, hidden: tuple[int, ...], layer_norm: bool):
        super().__init__()
        rng = Random(dims, "critic 0", "critic 1")
        self.units = ObsNormalizer(dims)
        self.body = Body(rng, dims.n_obs + dims.n_act, hidden)
        self.out = Linear(rng, hidden[-1], 1)
        self.products, self.layer_norm = dims.products, layer_norm

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        out = perceptron(self._inputs(obs, act), self._pairs(), self.products, self.layer_norm)
        return out.view(obs.shape[0], 2, obs.shape[1])

    def least(self, obs: Tensor, act: Tensor) -> Tensor:
        """The lesser of the two, (L, B), with its gradient for the action; the critics are to be fixed."""
        return least(self._inputs(obs, act), self._pairs(), self.products, self.layer_norm)

    @torch.no_grad()
    def regress(self, obs: Tensor, act: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Both values (L, 2, B), their loss against target (L, B), and its gradient for the parameters in order.

        The loss (L,) is 0.5 mean (q - target)^2, summed over the two.
        """
        q, loss, grads = regress(self._inputs(obs, act), self._pairs(), target, self.products, self.layer_norm)
        return q.view(obs.shape[0], 2, -1), loss.view(-1, 2).sum(-1), grads

    def _inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        return torch.cat([self.units(obs), act], -1)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [*self.body.pairs(), self.out.pair()]


class RewardNet(nn.Module):
    """The learned reward, (L, B, O), (L, B, A) to (L, B):  r(s, a) = g(s, a) - c0 + B tanh(p).

    `g` is a small tanh network on observations in the dataset's units, `c0` a running mean of g on the demonstrations,
    and B tanh(p) the learned bonus of being alive. A reward learned from differences is free up to a constant; the
    gauge here is that the absorbing state after a fall pays 0, so the constant is the bonus, and it is learned.

    The losses take c0 as a constant, so while they move the level of g, c0 lags behind by what g moves in about 100
    steps: the bonus is bounded, but until g settles the level of the reward is not bounded by it.
    """

    centre: Tensor

    def __init__(self, dims: Dims, hidden: tuple[int, ...], alive: float, bound: float):
        super().__init__()
        rng = Random(dims, "reward")
        self.units = ObsNormalizer(dims)
        self.body = Body(rng, dims.n_obs + dims.n_act, hidden)
        self.out = Linear(rng, hidden[-1], 1)
        at_first = math.atanh(alive / bound)
        self.alive = nn.Parameter(torch.full((dims.n_lanes, 1), at_first, device=dims.device))
        self.register_buffer("centre", torch.zeros(dims.n_lanes, 1, device=dims.device))
        self.bound = bound

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.level(self.features(self.inputs(obs, act)))

    def level(self, g: Tensor) -> Tensor:
        """The reward from g: centred, with the bonus."""
        return g - self.centre + self.bound * torch.tanh(self.alive)

    def inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        """What g reads, (L, B, O + A): the space in which its gradient is bounded."""
        return torch.cat([self.units(obs), act], -1)

    def features(self, inputs: Tensor) -> Tensor:
        """g itself, (L, B)."""
        h = inputs
        for layer in self.body.layers:
            h = layer(h).tanh()
        return self.out(h).squeeze(-1)

    @torch.no_grad()
    def recentre(self, g_demo: Tensor, rate: float = 0.01) -> None:
        """Moves c0 towards the mean of g over demonstrations, g_demo (L, B)."""
        self.centre.lerp_(g_demo.mean(-1, keepdim=True), rate)


def frozen_view(net: Net) -> Net:
    """The same network, to which no gradient flows: its parameters and buffers are the net's own memory."""
    of = copy.deepcopy(net)
    for mine, its in zip(of.modules(), net.modules(), strict=True):
        for name, p in its.named_parameters(recurse=False):
            setattr(mine, name, nn.Parameter(p.detach(), requires_grad=False))
        for name, b in its.named_buffers(recurse=False):
            setattr(mine, name, b)
    return of


RewardFn = Callable[[Tensor, Tensor], Tensor]
