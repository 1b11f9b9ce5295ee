"""Stacked networks, one per lane, evaluated together as batched products.

Shapes: O observation size, A action size, L lanes, B batch. Every network maps (L, B, ...) to (L, B, ...). Actions are
in (-1, 1); `environments.gym` converts them to the environment's units.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from aihf_control.models.functional import (
    least,
    log_slope,
    perceptron,
    plain_tanh_perceptron,
    regress,
    squashed_sample,
    tanh_perceptron,
)
from aihf_control.models.lanes import Dims, Random

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # Stable-Baselines3's bounds, so that an exported policy samples the same


Net = TypeVar("Net", bound=nn.Module)


class Linear(nn.Module):
    """L stacked linear layers: (L, B, in) to (L, B, out); weight (L, in, out), bias (L, 1, out)."""

    def __init__(self, rng: Random, n_in: int, n_out: int):
        super().__init__()
        bound = 1 / math.sqrt(n_in)  # torch.nn.Linear's own initialisation
        self.weight = nn.Parameter((rng.uniform(n_in, n_out) * 2 - 1) * bound)
        self.bias = nn.Parameter((rng.uniform(1, n_out) * 2 - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias."""
        weight, bias = self._parameters.values()  # a module's attributes are slow to look up
        return weight, bias  # type: ignore[return-value]


class Body(nn.Module):
    """The hidden layers of a network."""

    def __init__(self, rng: Random, n_in: int, hidden: tuple[int, ...]):
        super().__init__()
        self.layers = nn.ModuleList(Linear(rng, a, b) for a, b in zip((n_in, *hidden), hidden, strict=False))

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of every layer."""
        return [layer.pair() for layer in self.layers]  # type: ignore[operator]


class ObsNormalizer(nn.Module):
    """Normalises observations by a mean and a standard deviation, each (L, 1, O); initially the identity."""

    mean: Tensor
    std: Tensor

    def __init__(self, dims: Dims):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims.n_lanes, 1, dims.n_obs, device=dims.device))
        self.register_buffer("std", torch.ones(dims.n_lanes, 1, dims.n_obs, device=dims.device))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation, each (L, O)."""
        self.mean.copy_(mean[:, None])
        self.std.copy_(std[:, None])

    def forward(self, obs: Tensor) -> Tensor:
        return (obs - self.mean) / self.std


def squashed_log_prob(raw: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log density (...) of tanh(raw) if raw is Gaussian; all arguments are (..., A)."""
    gauss = -0.5 * ((raw - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    return (gauss - log_slope(raw)).sum(-1)


class Policy(nn.Module):
    """A Gaussian policy squashed by tanh, the actor of SAC (Haarnoja et al., arXiv 1812.05905).

    Before squashing, a new policy has a mean near 0 and a standard deviation of 1.
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
        """Return mean and log standard deviation before squashing, each (L, B, A)."""
        mean, log_std = self._heads(obs, products).chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _heads(self, obs: Tensor, products: torch.dtype | None = None) -> Tensor:
        """Return mean and unclamped log standard deviation, (L, B, 2 A)."""
        head = [torch.cat(both, -1) for both in zip(self.mean.pair(), self.log_std.pair(), strict=True)]
        return perceptron(self.units(obs), [*self.body.pairs(), (head[0], head[1])], products or self.products)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a reparametrised action (L, B, A), its log density (L, B), and the action before squashing."""
        return squashed_sample(self._heads(obs), noise, (LOG_STD_MIN, LOG_STD_MAX))

    def log_prob(self, obs: Tensor, raw: Tensor) -> Tensor:
        """Return the log density (L, B) of the action tanh(raw)."""
        mean, log_std = self(obs)
        return squashed_log_prob(raw, mean, log_std)

    def greedy(self, obs: Tensor) -> Tensor:
        """Return the greedy action (L, B, A), with its gradient."""
        return self(obs)[0].tanh()

    @torch.no_grad()
    def last_hidden(self, obs: Tensor) -> Tensor:
        """Return the inputs of the last layer, (L, B, H), computed with float32 products."""
        return perceptron(self.units(obs), self.body.pairs(), torch.float32).relu()

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions (L, B, A), computed with float32 products; greedy without noise."""
        mean, log_std = self(obs, torch.float32)
        return (mean if noise is None else mean + log_std.exp() * noise).tanh()

    def frozen_copy(self) -> Self:
        """Return a copy without gradients."""
        return copy.deepcopy(self).requires_grad_(False)


class TwinQ(nn.Module):
    """Two critics per lane, evaluated in one batched product: (L, B, O), (L, B, A) to (L, 2, B)."""

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
        """Return the minimum of both critics, (L, B), with its gradient for the action; the critics must be frozen."""
        return least(self._inputs(obs, act), self._pairs(), self.products, self.layer_norm)

    @torch.no_grad()
    def regress(self, obs: Tensor, act: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """Return values (L, 2, B), their loss for `target` (L, B), and its gradients, in the order of the parameters.

        The loss (L,) is 0.5 mean (q - target)^2, summed over the two.
        """
        q, loss, grads = regress(self._inputs(obs, act), self._pairs(), target, self.products, self.layer_norm)
        return q.view(obs.shape[0], 2, -1), loss.view(-1, 2).sum(-1), grads

    def _inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        return torch.cat([self.units(obs), act], -1)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [*self.body.pairs(), self.out.pair()]


class RewardNet(nn.Module):
    """The learned reward, (L, B, O), (L, B, A) to (L, B):  r(s, a) = S tanh((g(s, a) - c0) / S) + B tanh(p).

    `g` is a small tanh network on normalised observations, `c0` a running mean of g over demonstrations, and B tanh(p)
    the learned alive bonus. Differences of returns determine a reward up to a constant. It is fixed here by a reward of
    0 in the absorbing state after a fall, which makes the constant the alive bonus.

    The span S bounds the reward where there are no data: a policy cannot gain more from a few steps that the network
    overrates than it loses by a fall. With S = 0 it is not bounded: r = g - c0 + B tanh(p).

    The losses treat c0 as a constant, and c0 follows the mean of g with a lag of about 100 steps.

    Without `actions`, g depends on the observation only.
    """

    centre: Tensor

    def __init__(
        self,
        dims: Dims,
        hidden: tuple[int, ...],
        alive: float,
        bound: float,
        span: float = 0.0,
        actions: bool = True,
    ):
        super().__init__()
        rng = Random(dims, "reward")
        self.units = ObsNormalizer(dims)
        self.body = Body(rng, dims.n_obs + dims.n_act * actions, hidden)
        self.out = Linear(rng, hidden[-1], 1)
        at_first = math.atanh(alive / bound)
        self.alive = nn.Parameter(torch.full((dims.n_lanes, 1), at_first, device=dims.device))
        self.register_buffer("centre", torch.zeros(dims.n_lanes, 1, device=dims.device))
        self.bound, self.span, self.actions = bound, span, actions

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.level(self.features(self.inputs(obs, act)))

    def level(self, g: Tensor) -> Tensor:
        """Return the reward for outputs of g, (L, B): centred and bounded, plus the alive bonus."""
        return self.above_bonus(g) + self.bound * torch.tanh(self.alive)

    def above_bonus(self, g: Tensor) -> Tensor:
        """Return the reward minus the alive bonus for outputs of g, (L, B)."""
        centred = g - self.centre
        return self.span * torch.tanh(centred / self.span) if self.span else centred

    def inputs(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return the inputs of g, (L, B, O + A) or (L, B, O), with respect to which its gradient is bounded."""
        return torch.cat([self.units(obs), act], -1) if self.actions else self.units(obs)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the outputs of g, (L, B)."""
        return tanh_perceptron(inputs, self._pairs()).squeeze(-1)

    def smooth_features(self, inputs: Tensor) -> Tensor:
        """Return the outputs of g, (L, B), so that they can be differentiated twice."""
        return plain_tanh_perceptron(inputs, self._pairs()).squeeze(-1)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [*self.body.pairs(), self.out.pair()]

    @torch.no_grad()
    def recentre(self, g_demo: Tensor, rate: float = 0.01) -> None:
        """Move c0 towards the mean of g over demonstrations, g_demo (L, B)."""
        self.centre.lerp_(g_demo.mean(-1, keepdim=True), rate)


def frozen_view(net: Net) -> Net:
    """Return a view of a network without gradients, which shares the memory of its parameters and buffers."""
    view = copy.deepcopy(net)
    for target, source in zip(view.modules(), net.modules(), strict=True):
        for name, p in source.named_parameters(recurse=False):
            setattr(target, name, nn.Parameter(p.detach(), requires_grad=False))
        for name, b in source.named_buffers(recurse=False):
            setattr(target, name, b)
    return view


RewardFn = Callable[[Tensor, Tensor], Tensor]
