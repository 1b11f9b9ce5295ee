"""The losses of a reward, as pure functions. L lanes, B batch; every loss comes out as (L,): mean over the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over pairs, (L, B) to (L,); 0 where nothing weighs."""
    return (weight * x).sum(-1) / weight.sum(-1).clamp(min=1e-8)


def bradley_terry(win: Tensor, lose: Tensor, weight: Tensor) -> Tensor:
    """-log sigmoid(R(win) - R(lose)), weighted mean over pairs: win, lose, weight (L, B) to (L,).

    Bradley and Terry (1952); L2 of AIHF (arXiv 2406.06874). The returns are in units of the annotator's temperature.
    """
    return weighted(F.softplus(lose - win), weight)


def squared_margin(win: Tensor, lose: Tensor, weight: Tensor, margin: float) -> Tensor:
    """(h(win) - h(lose) - margin)^2, weighted mean over pairs: IPO (arXiv 2310.12036, equation 17). (L, B) to (L,)."""
    return weighted((win - lose - margin).square(), weight)


def hinge(win: Tensor, lose: Tensor, weight: Tensor) -> Tensor:
    """max(0, 1 - h(win) + h(lose)), weighted mean over pairs: SLiC's ranking loss (arXiv 2305.10425) on log ratios, as
    in OAIF (arXiv 2402.04792) and BPO (arXiv 2406.12168). (L, B) to (L,)."""
    return weighted(F.relu(1 - win + lose), weight)


def demo_gap(agent: Tensor, demo: Tensor, agent_absorbed: Tensor, demo_absorbed: Tensor) -> Tensor:
    """E_agent r - E_demo r, whose negative is the gradient of the demonstrations' likelihood (L1 of AIHF).

    agent, demo (L, B): rewards of steps before termination. The two shares (L,) are the parts of episodes, padded to
    the horizon, that lie in the absorbing state, whose reward is 0.
    """
    return (1 - agent_absorbed) * agent.mean(-1) - (1 - demo_absorbed) * demo.mean(-1)


def gradient_penalty(features: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, mixing: Tensor) -> Tensor:
    """One-sided penalty on the slope of `features` beyond 1, at points between a and b (L, B, D); mixing (L, B, 1).

    Without it the demonstration gap, linear in the reward, grows without bound (Petzka et al., arXiv 1709.08894).
    """
    x = (a + mixing * (b - a)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(features(x).sum(), x, create_graph=True)
    return F.relu(slope.norm(dim=-1) - 1).square().mean(-1)


def clip_return(reward: Tensor, real: Tensor, per_step: float) -> Tensor:
    """Sum of rewards (L, B, K) over the steps before termination, divided by per_step times the clip's length."""
    return (reward * real).sum(-1) / (per_step * reward.shape[-1])
