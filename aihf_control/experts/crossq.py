"""CrossQ in lanes: soft actor-critic with batch-normalised critics and without target networks.

    q, q' = critics([(s, a); (s', a')])  in one forward pass, normalised by the joint statistics of both halves
    critics:  minimise (q - (r + gamma (min q' - alpha log pi(a'|s'))))^2
    actor:    every `delay` updates, maximise min q(s, a) - alpha log pi(a|s), with the critics' running statistics

Bhatt et al., arXiv 1902.05605. Used by `experts train --learner crossq`, on the true reward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aihf_control.core.errors import BadInput, check_widths
from aihf_control.learning.replay import Batch
from aihf_control.learning.sac import polyak_update
from aihf_control.models.functional import perceptron
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Body, Linear, Policy, RewardFn
from aihf_control.models.optim import Adam

EPS = 1e-3  # added to a variance
LARGEST_SCALE, LARGEST_SHIFT = 3.0, 5.0  # bounds of the correction in batch renormalisation (r_max, d_max)


@dataclasses.dataclass(frozen=True)
class CrossQConfig:
    """Settings of CrossQ."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the critics' hidden layers."""
    actor: tuple[int, ...] = (128, 128)
    """Widths of the actor's hidden layers, which are exported."""
    lr: float = 1e-3
    """Adam's learning rate, for actor, critics and entropy weight."""
    beta: float = 0.5
    """Adam's decay rate of the first moment."""
    gamma: float = 0.99
    """Discount."""
    delay: int = 3
    """Critic updates per actor update."""
    rate: float = 0.01
    """Momentum of the running statistics: weight of the batch."""
    renorm: int = 10_000
    """Updates before batch normalisation is replaced by batch renormalisation (Ioffe, arXiv 1702.03275)."""
    alpha_start: float = 0.2
    """Initial entropy weight; it is tuned automatically to the target `entropy`."""
    entropy: float = -1.0
    """Target entropy per action dimension."""
    average: float = 1e-3
    """Rate of the exponential average of the actor that is evaluated and exported."""

    def __post_init__(self):
        check_widths("--crossq.hidden", self.hidden)
        check_widths("--crossq.actor", self.actor)
        if self.delay < 1 or not self.alpha_start > 0:
            raise BadInput(
                f"--crossq.delay must be at least 1 and --crossq.alpha-start above 0, "
                f"got {self.delay} and {self.alpha_start}"
            )


class CrossQ:
    """Actor, twin critics and entropy weight of every lane."""

    def __init__(self, dims: Dims, cfg: CrossQConfig, policy: Policy | None = None):
        self.dims, self.cfg = dims, cfg
        self.policy = policy or Policy(dims, cfg.actor)
        self.average = self.policy.frozen_copy()
        self.q = NormedTwinQ(dims, cfg.hidden)
        self.log_alpha = torch.full((dims.n_lanes, 1), cfg.alpha_start, device=dims.device).log().requires_grad_()
        params = (self.policy.parameters(), self.q.parameters(), [self.log_alpha])
        self.opt_pi, self.opt_q, self.opt_alpha = (Adam(p, cfg.lr, (cfg.beta, 0.999)) for p in params)
        self.rng = Random(dims, "updates")
        self.n_updates = 0

    def update(self, batch: Batch, reward_fn: RewardFn, actor: bool = True) -> None:
        """Update the critics and, every `delay` updates, the actor, its average and the entropy weight.

        With `actor` False only the critics are updated.
        """
        self.n_updates += 1
        with torch.no_grad():
            reward = reward_fn(batch.obs, batch.act)
        noise = self.rng.normal(2, batch.act.shape[1], self.dims.n_act)
        self._improve_critics(batch, reward, noise[:, 0])
        if actor and self.n_updates % self.cfg.delay == 0:
            self._improve_actor(batch.obs, noise[:, 1])
            polyak_update(self.average, self.policy, min(1.0, self.cfg.average * self.cfg.delay))

    def _improve_critics(self, batch: Batch, reward: Tensor, noise: Tensor) -> None:
        with torch.no_grad():
            next_act, log_prob, _ = self.policy.sample(batch.next_obs, noise)
        renorm = self.n_updates > self.cfg.renorm
        q, q_next = self.q(batch.obs, batch.act, batch.next_obs, next_act, self.cfg.rate, renorm)
        next_value = q_next.amin(1) - self.log_alpha.detach().exp() * log_prob
        target = reward + self.cfg.gamma * next_value.masked_fill(batch.done > 0, 0.0)
        self.opt_q.descend(0.5 * (q - target[:, None]).square().mean(-1).sum(-1))

    def _improve_actor(self, obs: Tensor, noise: Tensor) -> None:
        act, log_prob, _ = self.policy.sample(obs, noise)
        alpha = self.log_alpha.detach().exp()
        self.opt_pi.descend((alpha * log_prob - self.q.evaluate(obs, act).amin(1)).mean(-1))
        gap = log_prob.detach().mean(-1, keepdim=True) + self.cfg.entropy * self.dims.n_act
        self.opt_alpha.descend(-(self.log_alpha * gap).squeeze(-1))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of networks, optimisers and generator."""
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        return state | {"log_alpha": self.log_alpha, "n_updates": self.n_updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.log_alpha.copy_(state["log_alpha"])
        self.n_updates = state["n_updates"]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])


PARTS = ("policy", "average", "q", "rng", "opt_pi", "opt_q", "opt_alpha")


class NormedTwinQ(nn.Module):
    """Two critics per lane with batch normalisation of the input and of the hidden layers.

    A layer is relu(norm(x) W + b), the last one norm(x) W + b. The normalisations have no scale and shift parameters,
    since W and b of the same layer can represent both.
    """

    def __init__(self, dims: Dims, hidden: tuple[int, ...]):
        super().__init__()
        rng = Random(dims, "critic 0", "critic 1")
        widths = (dims.n_obs + dims.n_act, *hidden)
        self.body = Body(rng, widths[0], hidden)
        self.out = Linear(rng, hidden[-1], 1)
        for i, n in enumerate(widths):
            self.register_buffer(f"mean{i}", torch.zeros(2 * dims.n_lanes, n, device=dims.device))
            self.register_buffer(f"var{i}", torch.ones(2 * dims.n_lanes, n, device=dims.device))

    def forward(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, next_act: Tensor, rate: float, renorm: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the values of (s, a) and those of (s', a'), (L, 2, B) each; update the running statistics by `rate`.

        Gradients flow through the values of (s, a) only, to the parameters.
        """
        x = torch.cat([torch.cat([obs, act], -1), torch.cat([next_obs, next_act], -1)], 1).repeat_interleave(2, 0)
        q, q_next = _Joint.apply(x, self.statistics(), rate, renorm, *self._params())
        shape = (obs.shape[0], 2, obs.shape[1])
        return q.view(shape), q_next.view(shape)

    def evaluate(self, obs: Tensor, act: Tensor) -> Tensor:
        """Return values (L, 2, B) under the running statistics; the gradient flows to the action only."""
        x = torch.cat([obs, act], -1).repeat_interleave(2, 0)
        return perceptron(x, self.fold(), torch.float32).view(obs.shape[0], 2, obs.shape[1])

    @torch.no_grad()
    def fold(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of every layer with the preceding normalisation folded in."""
        params, folded = self._params(), []
        for (mean, var), w, b in zip(self.statistics(), params[0::2], params[1::2], strict=True):
            weight = w * (var + EPS).rsqrt()[:, :, None]
            folded.append((weight, torch.baddbmm(b, mean[:, None], weight, alpha=-1)))
        return folded

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Return the running mean and variance (2 L, width) of every layer's input."""
        return [(getattr(self, f"mean{i}"), getattr(self, f"var{i}")) for i in range(len(self.body.layers) + 1)]

    def _params(self) -> list[Tensor]:
        return [t for pair in [*self.body.pairs(), self.out.pair()] for t in pair]


class _Joint(torch.autograd.Function):
    """Forward pass of the critics on two halves (N, 2 B, in) with joint statistics; gradient through the first half.

    The gradient of the statistics is computed from the first half, as if the second were a copy of it. This saves a
    third of the time of the critics, which are the most expensive part of an update.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, statistics: Sequence[tuple[Tensor, Tensor]], rate: float, renorm: bool, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        half, saved, h = x.shape[1] // 2, [], x
        for i, (w, b) in enumerate(zip(params[0::2], params[1::2], strict=True)):
            h = h.relu_() if i else h
            y, factors = _normalise(h, statistics[i], rate, renorm)
            saved += [h[:, :half], y[:, :half], *factors, w]
            h = torch.baddbmm(b, y, w)
        ctx.save_for_backward(*saved)
        q, q_next = h[:, :half], h[:, half:].clone()
        ctx.mark_non_differentiable(q_next)
        return q.clone(), q_next

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        grads: list[Tensor] = []
        for i in reversed(range(0, len(saved), 6)):
            h, y, mean, inverse, scale, w = saved[i : i + 6]
            grads = [_weight_grad(y, grad), grad.sum(1, keepdim=True), *grads]
            if i:
                grad = _normalise_backward(torch.bmm(grad, w.transpose(1, 2)), h, mean, inverse, scale)
                grad = torch.ops.aten.threshold_backward(grad, h, 0)
        return None, None, None, None, *grads


def _normalise(
    h: Tensor, running: tuple[Tensor, Tensor], rate: float, renorm: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Normalise h (N, B, C) over B and update `running`; return it with mean, 1 / std and correction, (N, C) each.

    With `renorm` the result is (h - running mean) / (running std), within LARGEST_SCALE and LARGEST_SHIFT.
    """
    old_mean, old_inverse = running[0].clone(), (running[1] + EPS).rsqrt()
    y, means, inverses = torch.empty_like(h), torch.empty_like(old_mean), torch.empty_like(old_mean)
    for k in range(len(h)):
        mean, var, to = running[0][k], running[1][k], (y[k], means[k], inverses[k])
        torch.native_batch_norm(h[k], None, None, mean, var, True, rate, EPS, out=to)
    scale = torch.ones_like(means)
    if renorm:
        scale = (old_inverse / inverses).clamp_(1 / LARGEST_SCALE, LARGEST_SCALE)
        shift = ((means - old_mean) * old_inverse).clamp_(-LARGEST_SHIFT, LARGEST_SHIFT)
        y.mul_(scale[:, None]).add_(shift[:, None])
    return y, (means, inverses, scale)


def _normalise_backward(grad: Tensor, h: Tensor, mean: Tensor, inverse: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient with respect to h, (N, B, C), from that of the normalised rows; `scale` is a constant."""
    back = torch.ops.aten.native_batch_norm_backward
    mask = [True, False, False]
    rows = [back(grad[k], h[k], scale[k], None, None, mean[k], inverse[k], True, EPS, mask)[0] for k in range(len(h))]
    return torch.stack(rows)


def _weight_grad(y: Tensor, grad: Tensor) -> Tensor:
    """Return y^T grad; if it is narrow, as the transpose of grad^T y, which is faster."""
    if grad.shape[-1] < 16:
        return torch.bmm(grad.transpose(1, 2), y).transpose(1, 2)
    return torch.bmm(y.transpose(1, 2), grad)
