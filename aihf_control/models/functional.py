"""Fast operations of the learner, with hand-written gradients.

Besides its matrix products, an update is limited by memory traffic. So these work in place where that is safe, and save
only what their gradient needs. The plain formulas are in the docstrings and, as code, in the tests, which compare
values and gradients with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from aihf_control.models import kernel
from aihf_control.models.kernel_library import EPS

Layers = Sequence[tuple[Tensor, Tensor]]  # weight (N, in, out) and bias (N, 1, out) of each layer


def perceptron(x: Tensor, layers: Layers, products: torch.dtype, layer_norm: bool = False) -> Tensor:
    """Evaluate N perceptrons: relu((layer_norm)(x W + b)) for every layer but the last, which is x W + b.

    Takes x (N, B, in), or (N / k, B, in) if every k consecutive networks read the same rows, weights (N, in, out) and
    biases (N, 1, out). Returns (N, B, out of the last layer) in float32.

    With bfloat16 `products` the factors of the hidden layers' products are rounded to bfloat16 (to TF32 on an NVIDIA
    GPU); sums are float32. The first and last layers keep float32, since their inputs and outputs need the precision
    (`kernel.c` keeps 8 significant bits of their factors in the gradient, and 16 in their values with AMX).
    """
    params = [t for pair in layers for t in pair]
    if kernel.takes(x, params, products):
        return kernel.perceptron(x, params, products, layer_norm)
    x = x.repeat_interleave(params[0].shape[0] // x.shape[0], 0)
    return _Perceptron.apply(x, layer_norm, products == torch.bfloat16, *params)


def tanh_perceptron(x: Tensor, layers: Layers) -> Tensor:
    """Evaluate N perceptrons: tanh(x W + b) for every layer but the last, which is x W + b.

    Shapes are those of `perceptron`; the products are float32. It can be differentiated once, or on a CPU without a
    kernel twice: see `plain_tanh_perceptron`.
    """
    params = [t for pair in layers for t in pair]
    if kernel.takes(x, params, torch.float32):
        return kernel.perceptron(x, params, torch.float32, tanh=True)
    return plain_tanh_perceptron(x, layers)


def plain_tanh_perceptron(x: Tensor, layers: Layers) -> Tensor:
    """Evaluate `tanh_perceptron` by operations that can be differentiated twice."""
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = torch.baddbmm(b, x, w).tanh()
    return torch.baddbmm(bias, x, weight)


def squashed_sample(out: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return act = tanh(u) with u = mean + exp(log_std) noise, the log density of act, and u.

    `out` (N, B, 2 A) is mean and log_std; log_std is clamped to `bounds`. The log density (N, B) is the sum over A of
    -noise^2 / 2 - log_std - log(2 pi) / 2 - log(1 - tanh(u)^2). All others are (N, B, A).
    """
    act, log_prob, u = _SquashedSample.apply(out, noise, bounds)
    return act, log_prob, u


def regress(
    x: Tensor, layers: Layers, target: Tensor, products: torch.dtype, layer_norm: bool = False
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Evaluate perceptrons with one output and their squared error to `target` (N / k, B).

    Returns outputs (N, B), losses 0.5 mean (out - target)^2 (N,), and the gradients of the losses for the layers.
    """
    params = [t for pair in layers for t in pair]
    if kernel.takes(x, params, products):
        return kernel.regress(x, params, target, products, layer_norm)
    with torch.enable_grad():
        out = perceptron(x, layers, products, layer_norm).squeeze(-1)
        loss = 0.5 * (out - target.repeat_interleave(out.shape[0] // x.shape[0], 0)).square().mean(-1)
    return out.detach(), loss.detach(), torch.autograd.grad(loss, params, torch.ones_like(loss))


def least(x: Tensor, layers: Layers, products: torch.dtype, layer_norm: bool = False) -> Tensor:
    """Return the minimum over every k consecutive perceptrons with one output, (N / k, B).

    The fast form computes the gradient for x only. If layers require gradients, autograd is used.
    """
    params = [t for pair in layers for t in pair]
    if kernel.takes(x, params, products) and not any(p.requires_grad for p in params):
        return _Least.apply(x, products, layer_norm, *params)
    return perceptron(x, layers, products, layer_norm).view(x.shape[0], -1, x.shape[1]).amin(1)


def log_slope(u: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2) as 2 (log 2 - u - softplus(-2 u)), which is finite where 1 - tanh(u)^2 underflows."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer_norm: bool, rounded: bool, *params: Tensor) -> Tensor:
        weights, biases = params[0::2], params[1::2]
        inputs, scales, h = [x], [], x
        for i, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            h = product(h, w, rounded and i > 0).add_(b)
            if layer_norm:
                scales.append(_normalise_(h))
                inputs.append(h)
                h = h.relu()
            else:
                inputs.append(h.relu_())
        ctx.save_for_backward(*inputs, *scales, *weights)
        ctx.layer_norm, ctx.rounded = layer_norm, rounded
        return product(h, weights[-1], False).add_(biases[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        n = (len(ctx.saved_tensors) + ctx.layer_norm) // (2 + ctx.layer_norm)
        inputs, scales, weights = (ctx.saved_tensors[a:b] for a, b in ((0, n), (n, -n), (-n, None)))
        grads: list[Tensor | None] = [None] * (2 * n)
        for i in reversed(range(n)):
            rounded = ctx.rounded and 0 < i < n - 1
            if ctx.needs_input_grad[3 + 2 * i]:
                h = inputs[i].relu() if ctx.layer_norm and i else inputs[i]
                grads[2 * i] = _weight_grad(h, grad, rounded)
                grads[2 * i + 1] = grad.sum(1, keepdim=True)
            if i or ctx.needs_input_grad[0]:
                grad = product(grad, weights[i].transpose(1, 2), rounded)
            if i:
                torch.ops.aten.threshold_backward.grad_input(grad, inputs[i], 0, grad_input=grad)
                if ctx.layer_norm:
                    grad = _normalise_backward(grad, inputs[i], scales[i - 1])
        return (grad if ctx.needs_input_grad[0] else None), None, None, *grads


class _SquashedSample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        made = kernel.squash(out, noise, bounds)
        ctx.by_kernel, ctx.bounds = made is not None, bounds
        act, log_prob, u, offset = made or _squash(out, noise, bounds)
        ctx.save_for_backward(out, act, offset)
        ctx.set_materialize_grads(False)
        return act, log_prob, u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None):  # pyright: ignore[reportIncompatibleMethodOverride]
        out, act, offset = ctx.saved_tensors
        if ctx.by_kernel:
            return kernel.squash_gradient(out, ctx.bounds, act, offset, grads), None, None
        d_act, d_log_prob, d_u = (0.0 if g is None else g for g in grads)
        if isinstance(d_log_prob, Tensor):
            d_log_prob = d_log_prob.unsqueeze(-1)
        d_mean = d_act * (1 - act * act) + 2 * d_log_prob * act + d_u
        log_std = out.chunk(2, -1)[1]
        inside = (log_std >= ctx.bounds[0]) & (log_std <= ctx.bounds[1])
        return torch.cat([d_mean, torch.where(inside, d_mean * offset - d_log_prob, 0.0)], -1), None, None


def _squash(out: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, ...]:
    mean, log_std = out.chunk(2, -1)
    log_std = log_std.clamp(*bounds)
    offset = log_std.exp().mul_(noise)
    u = mean + offset
    constant = 0.5 * math.log(2 * math.pi)
    log_prob = (noise.square().mul_(-0.5) - log_std - log_slope(u)).sub_(constant).sum(-1)
    return u.tanh(), log_prob, u, offset


class _Least(torch.autograd.Function):
    """Compute the gradient for x in the forward pass, since rows are independent; scale it in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, products: torch.dtype, layer_norm: bool, *params: Tensor) -> Tensor:
        value, dx = kernel.least(x, params, products, layer_norm)
        ctx.save_for_backward(dx)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (dx,) = ctx.saved_tensors
        return dx * grad.unsqueeze(-1), *[None] * (len(ctx.needs_input_grad) - 1)


def product(a: Tensor, b: Tensor, rounded: bool) -> Tensor:
    """Return the matrix product a b, with factors rounded to bfloat16 if `rounded`."""
    if not rounded:
        return torch.bmm(a, b)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return torch.bmm(a, b)
    finally:
        torch.set_float32_matmul_precision(before)


def _weight_grad(h: Tensor, grad: Tensor, rounded: bool) -> Tensor:
    """Return h^T grad; if it is narrow, as the transpose of grad^T h, which is about three times as fast."""
    if grad.shape[-1] < 16:
        return product(grad.transpose(1, 2), h, rounded).transpose(1, 2)
    return product(h.transpose(1, 2), grad, rounded)


def _normalise_(h: Tensor) -> Tensor:
    """Replace h by (h - mean) / std over its last axis; return 1 / std, (N, B, 1)."""
    h.sub_(h.mean(-1, keepdim=True))
    variance = torch.linalg.vector_norm(h, dim=-1, keepdim=True).square_().div_(h.shape[-1])  # reads h once
    scale = variance.add_(EPS).rsqrt_()
    h.mul_(scale)
    return scale


def _normalise_backward(grad: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Return (grad - mean(grad) - y mean(grad y)) scale, the gradient for the input of the normalisation.

    Uses torch's layer norm gradient with mean 0 and scale 1, for which y is its own normalised form.
    """
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    wanted = [True, False, False]
    back = torch.ops.aten.native_layer_norm_backward
    return back(grad, y, [y.shape[-1]], zeros, ones, None, None, wanted)[0].mul_(scale)
