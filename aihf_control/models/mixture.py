"""Policies that are made of others: what can be played, and mixtures."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from aihf_control.models.networks import Policy, squashed_log_prob


class Actor(Protocol):
    """A policy that can be played: observations (L, B, O) and noise (L, B, A) to actions (L, B, A)."""

    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions; greedy without noise."""
        ...


class Mixture(nn.Module):
    """The normalised geometric mixture a^(1 - c) b^c of the densities of two policies.

    Before squashing, it is a Gaussian whose precision is the weighted sum of the two precisions, and whose mean is
    the mean of the two weighted by precision.
    """

    def __init__(self, a: Policy, b: Policy, c: float):
        super().__init__()
        self.b, self.c = b, c
        self.a = [a]  # in a list, so that its state is not part of this module's

    def forward(self, obs: Tensor, products: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and precision before squashing, each (L, B, A)."""
        (mean_a, log_a), (mean_b, log_b) = (policy(obs, products) for policy in (self.a[0], self.b))
        precision_a, precision_b = (1 - self.c) * (-2 * log_a).exp(), self.c * (-2 * log_b).exp()
        mean = (precision_a * mean_a + precision_b * mean_b) / (precision_a + precision_b)
        return mean, precision_a + precision_b

    def log_prob(self, obs: Tensor, raw: Tensor) -> Tensor:
        """Return the log density (L, B) of the action tanh(raw)."""
        mean, precision = self(obs)
        return squashed_log_prob(raw, mean, -0.5 * precision.log())

    @torch.no_grad()
    def act(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions (L, B, A), computed with float32 products; greedy without noise."""
        mean, precision = self(obs, torch.float32)
        return (mean if noise is None else mean + precision.rsqrt() * noise).tanh()
