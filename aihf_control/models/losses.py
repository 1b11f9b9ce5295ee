"""Losses of a reward, as pure functions. L lanes, B batch; every loss has shape (L,), a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6  # mass of the largest loss that takes all


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean over pairs, (L, B) to (L,); 0 if all weights are 0."""
    return (weight * x).sum(-1) / weight.sum(-1).clamp(min=1e-8)


def bradley_terry(win: Tensor, lose: Tensor, weight: Tensor, mistakes: float = 0.0) -> Tensor:
    """Return -log P(win), a weighted mean over pairs: win, lose, weight (L, B) to (L,).

    P = (1 - 2 m) sigmoid(R(win) - R(lose)) + m for an annotator who errs in a share m of all comparisons, however clear
    they are (Christiano et al., arXiv 1706.03741, section 2.2.3). m = 0: Bradley and Terry (1952), L2 of AIHF (arXiv
    2406.06874). Returns are in units of the annotator's temperature.
    """
    return weighted_mean(pair_losses(win, lose, mistakes), weight)


def pair_losses(win: Tensor, lose: Tensor, mistakes: float = 0.0) -> Tensor:
    """Return the loss of each pair in `bradley_terry`, (L, B)."""
    if not mistakes:
        return F.softplus(lose - win)
    return -(mistakes + (1 - 2 * mistakes) * torch.sigmoid(win - lose)).log()


def robust_mean(losses: Tensor, weight: Tensor, rho: float, top: float) -> Tensor:
    """Return the largest mean of the losses of pairs under weights within total variation `rho` of the given ones.

    losses, weight (L, B) to (L,). The gradient is that of the losses under `worst_weights`.
    """
    return (worst_weights(losses.detach(), weight, rho, top) * losses).sum(-1)


def worst_weights(losses: Tensor, weight: Tensor, rho: float, top: float) -> Tensor:
    """Return the weights q, (L, B), with TV(q, p) <= rho that maximise sum q losses, where p is `weight` over its sum.

    q takes the mass `rho` from the smallest losses and gives it to the largest one, or, so that no single pair has it
    all, to the largest ones that together have the mass `top` in p, in proportion to p. All are 0 if all of p are.
    """
    p = weight / weight.sum(-1, keepdim=True).clamp(min=1e-8)
    order = losses.argsort(-1)
    mass = p.gather(-1, order)
    up_to = mass.cumsum(-1)
    kept = (up_to - rho).clamp(min=0).minimum(mass)
    above = up_to[..., -1:] - up_to
    taking = (max(top, SMALLEST) - above).clamp(min=0).minimum(mass)
    taken = (mass - kept).sum(-1, keepdim=True)
    worst = kept + taken * taking / taking.sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.zeros_like(p).scatter(-1, order, worst)


def squared_margin(win: Tensor, lose: Tensor, weight: Tensor, margin: float) -> Tensor:
    """Return (h(win) - h(lose) - margin)^2, a weighted mean over pairs, (L, B) to (L,).

    IPO (arXiv 2310.12036, equation 17).
    """
    return weighted_mean((win - lose - margin).square(), weight)


def hinge(win: Tensor, lose: Tensor, weight: Tensor) -> Tensor:
    """Return max(0, 1 - h(win) + h(lose)), a weighted mean over pairs, (L, B) to (L,).

    The ranking loss of SLiC (arXiv 2305.10425) on log ratios, as in OAIF (arXiv 2402.04792) and BPO
    (arXiv 2406.12168).
    """
    return weighted_mean(F.relu(1 - win + lose), weight)


def demo_gap(agent: Tensor, demo: Tensor, agent_absorbed: Tensor, demo_absorbed: Tensor) -> Tensor:
    """Return E_agent r - E_demo r; its negative gradient is that of the demonstrations' likelihood (L1 of AIHF).

    agent, demo (L, B): rewards of steps before termination. agent_absorbed, demo_absorbed (L,): shares of steps in the
    absorbing state, whose reward is 0, when episodes are padded to the horizon.
    """
    return (1 - agent_absorbed) * agent.mean(-1) - (1 - demo_absorbed) * demo.mean(-1)


def gradient_penalty(
    features: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, mixing: Tensor, most: float = 1.0
) -> Tensor:
    """Return a one-sided penalty on gradients of `features` with a norm above `most` (Petzka et al., arXiv 1709.08894).

    The gradients are taken at points between a and b (L, B, D), by shares `mixing` (L, B, 1). Without the penalty the
    demonstration gap, which is linear in the reward, is unbounded.
    """
    x = (a + mixing * (b - a)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(features(x).sum(), x, create_graph=True)
    return F.relu(slope.norm(dim=-1) / most - 1).square().mean(-1)


def clip_return(reward: Tensor, real: Tensor, per_step: float) -> Tensor:
    """Return the sum of rewards (L, B, K) before termination over `per_step` times the segment length, (L, B)."""
    return (reward * real).sum(-1) / (per_step * reward.shape[-1])
