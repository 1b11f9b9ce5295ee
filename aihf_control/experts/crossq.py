"""CrossQ in lanes: a soft actor-critic whose critics are batch-normalised and have no target networks.

    q, q' = critics([(s, a); (s', a')])  in one forward pass, normalised by the statistics of both halves together
    critics:  minimise (q - (r + gamma (min q' - alpha log pi(a'|s'))))^2
    actor:    every `delay` updates, maximise min q(s, a) - alpha log pi(a|s), with the critics' running statistics

Bhatt et al., arXiv 1902.05605. `experts train --learner crossq` trains with it on the true reward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aihf_control.core.errors import BadInput
from aihf_control.learning.replay import Batch
from aihf_control.learning.sac import polyak_update
from aihf_control.models.functional import perceptron
from aihf_control.models.lanes import Dims, Random
from aihf_control.models.networks import Body, Linear, Policy, RewardFn
from aihf_control.models.optim import Adam

EPS = 1e-3  # added to a variance
LARGEST_SCALE, LARGEST_SHIFT = 3.0, 5.0  # bounds of the correction of batch renormalisation


@dataclasses.dataclass(frozen=True)
class CrossQConfig:
    """Settings of CrossQ."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the critics' hidden layers."""
    actor: tuple[int, ...] = (128, 128)
    """Widths of the actor's hidden layers; they are what is exported."""
    lr: float = 1e-3
    """Adam's learning rate, for actor, critics and entropy weight."""
    beta: float = 0.5
    """Adam's decay rate of the first moment."""
    gamma: float = 0.99
    """Discount."""
    delay: int = 3
    """Updates of the critics for one of the actor."""
    rate: float = 0.01
    """Rate at which the running statistics follow those of the batches."""
    renorm: int = 10_000
    """Updates after which batch normalisation becomes batch renormalisation (Ioffe, arXiv 1702.03275)."""
    alpha_start: float = 0.2
    """Entropy weight at first; it is adapted to an entropy of `entropy` per action dimension."""
    entropy: float = -1.0
    """Target entropy per action dimension."""
    average: float = 1e-3
    """Rate of the exponential average of the actor that is evaluated and exported."""

    def __post_init__(self):
        if self.delay < 1 or not self.alpha_start > 0:
            raise BadInput(
                f"--crossq.delay must be at least 1 and --crossq.alpha-start above 0, "
                f"got {self.delay} and {self.alpha_start}"
            )


class CrossQ:
    """Actor, twin critics and entropy weight for every lane, and one `update` of them all."""

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
        """One step of the critics and, every `delay` updates, of actor, entropy weight and average."""
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
        going_on = q_next.amin(1) - self.log_alpha.detach().exp() * log_prob
        target = reward + self.cfg.gamma * going_on.masked_fill(batch.done > 0, 0.0)
        self.opt_q.descend(0.5 * (q - target[:, None]).square().mean(-1).sum(-1))

    def _improve_actor(self, obs: Tensor, noise: Tensor) -> None:
        act, log_prob, _ = self.policy.sample(obs, noise)
        alpha = self.log_alpha.detach().exp()
        self.opt_pi.descend((alpha * log_prob - self.q.settled(obs, act).amin(1)).mean(-1))
        gap = log_prob.detach().mean(-1, keepdim=True) + self.cfg.entropy * self.dims.n_act
        self.opt_alpha.descend(-(self.log_alpha * gap).squeeze(-1))

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        return state | {"log_alpha": self.log_alpha, "n_updates": self.n_updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_alpha.copy_(state["log_alpha"])
        self.n_updates = state["n_updates"]
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])


PARTS = ("policy", "average", "q", "rng", "opt_pi", "opt_q", "opt_alpha")


class NormedTwinQ(nn.Module):
    """Two critics a lane whose input and hidden layers are batch-normalised, without scale and shift of their own.

    A layer is relu(norm(x) W + b), the last norm(x) W + b; the weights after a normalisation take the part of its
    scale and shift.
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
        """Values of (s, a), with their gradient, and of (s', a'), without: both (L, 2, B). Moves the running
        statistics by `rate`."""
        x = torch.cat([torch.cat([obs, act], -1), torch.cat([next_obs, next_act], -1)], 1).repeat_interleave(2, 0)
        q, q_next = _Joint.apply(x, self.statistics(), rate, renorm, *self._params())
        shape = (obs.shape[0], 2, obs.shape[1])
        return q.view(shape), q_next.view(shape)

    def settled(self, obs: Tensor, act: Tensor) -> Tensor:
        """Values (L, 2, B) by the running statistics, whose gradient flows to the action alone."""
        x = torch.cat([obs, act], -1).repeat_interleave(2, 0)
        return perceptron(x, self.folded(), torch.float32).view(obs.shape[0], 2, obs.shape[1])

    @torch.no_grad()
    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of every layer with the normalisation before it folded in."""
        params, folded = self._params(), []
        for (mean, var), w, b in zip(self.statistics(), params[0::2], params[1::2], strict=True):
            weight = w * (var + EPS).rsqrt()[:, :, None]
            folded.append((weight, torch.baddbmm(b, mean[:, None], weight, alpha=-1)))
        return folded

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Running mean and variance (2 L, width) of every layer's input."""
        return [(getattr(self, f"mean{i}"), getattr(self, f"var{i}")) for i in range(len(self.body.layers) + 1)]

    def _params(self) -> list[Tensor]:
        return [t for pair in [*self.body.pairs(), self.out.pair()] for t in pair]


class _Joint(torch.autograd.Function):
    """The critics on two halves (N, 2 B, in) that are normalised together, with a gradient to the weights through the
    first half only. The gradient of the statistics is taken over that half, as if the other were its copy: the critics
    are the expensive part, and this saves a third of their time."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, statistics: Sequence[tuple[Tensor, Tensor]], rate: float, renorm: bool, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        half, saved, h = x.shape[1] // 2, [], x
        for i, (w, b) in enumerate(zip(params[0::2], params[1::2], strict=True)):
            h = h.relu_() if i else h
            y, about = _normalise(h, statistics[i], rate, renorm)
            saved += [h[:, :half], y[:, :half], *about, w]
            h = torch.baddbmm(b, y, w)
        ctx.save_for_backward(*saved)
        q, q_next = h[:, :half], h[:, half:].clone()
        ctx.mark_non_differentiable(q_next)
        return q.clone(), q_next

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = ctx.saved_tensors
        grads: list[Tensor] = []
        for i in reversed(range(0, len(kept), 6)):
            h, y, mean, inverse, scale, w = kept[i : i + 6]
            grads = [_weight_grad(y, grad), grad.sum(1, keepdim=True), *grads]
            if i:
                grad = _normalise_backward(torch.bmm(grad, w.transpose(1, 2)), h, mean, inverse, scale)
                grad = torch.ops.aten.threshold_backward(grad, h, 0)
        return None, None, None, None, *grads


def _normalise(
    h: Tensor, running: tuple[Tensor, Tensor], rate: float, renorm: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """h (N, B, C) normalised over B; its mean, 1 / std and the scale of the correction, (N, C) each. Moves `running`.

    With `renorm` the result is (h - running mean) / (running std), as far as LARGEST_SCALE and LARGEST_SHIFT allow.
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
    """From the gradient for the normalised rows to that for h, (N, B, C); the correction is a constant in it."""
    back = torch.ops.aten.native_batch_norm_backward
    wanted = [True, False, False]
    rows = [back(grad[k], h[k], scale[k], None, None, mean[k], inverse[k], True, EPS, wanted)[0] for k in range(len(h))]
    return torch.stack(rows)


def _weight_grad(y: Tensor, grad: Tensor) -> Tensor:
    """y^T grad; a narrow one is made as the transpose of grad^T y, which is faster."""
    if grad.shape[-1] < 16:
        return torch.bmm(grad.transpose(1, 2), y).transpose(1, 2)
    return torch.bmm(y.transpose(1, 2), grad)
