"""Python interface of `kernel.c`: perceptrons and their gradients on a CPU, in its fastest instruction set.

`kernel_library.py` compiles it. Where it cannot, torch computes the same (`functional.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aihf_control.models.kernel_library import MOST, ROWS, library


class _Stack(ctypes.Structure):
    """Sizes and addresses of a stack of networks; the struct `Stack` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("nets", "batch", "layers", "layer_norm", "tanh", "share", "room")),
        ("width", ctypes.c_int * (MOST + 1)),
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * MOST) for name in ("w", "b", "h", "y", "scale")),
        *((name, ctypes.c_void_p) for name in ("out", "grad", "dx")),
        *((name, ctypes.c_void_p * MOST) for name in ("dw", "db")),
        ("pick", ctypes.c_void_p),
        ("picked", ctypes.c_int),
    )


def takes(x: Tensor, params: Sequence[Tensor], products: torch.dtype) -> bool:
    """Return whether `perceptron` supports these tensors.

    Required are float32 on the CPU, matching shapes, hidden widths that are multiples of ROWS, and a kernel for the
    type of `products`. Wrong shapes give False, so that torch reports them.
    """
    if len(params) > 2 * MOST or library(products) is None or not all(map(_is_plain, (x, *params))) or x.dim() != 3:
        return False
    n, n_in = params[0].shape[0], x.shape[2]
    if n % x.shape[0]:
        return False
    for w, b in zip(params[0::2], params[1::2], strict=True):
        if w.dim() != 3 or w.shape[:2] != (n, n_in) or b.shape != (n, 1, w.shape[2]):
            return False
        n_in = w.shape[2]
    return all(w.shape[2] % ROWS == 0 for w in params[:-2:2])


def perceptron(
    x: Tensor, params: Sequence[Tensor], products: torch.dtype, layer_norm: bool = False, tanh: bool = False
) -> Tensor:
    """Compute `functional.perceptron` for x (N / k, B, in); `params` are weight and bias of each layer.

    With `tanh` instead, and without normalisation, `functional.tanh_perceptron`.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *params)):
        return _Perceptron.apply(x, products, layer_norm, tanh, *params)
    return _forward(x.contiguous(), [p.contiguous() for p in params], products, layer_norm, tanh, {})


def regress(
    x: Tensor, params: Sequence[Tensor], target: Tensor, products: torch.dtype, layer_norm: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Compute `functional.regress`: outputs (N, B), losses (N,), and their gradient for the parameters."""
    x, params, target = x.contiguous(), [p.contiguous() for p in params], target.contiguous()
    out = x.new_empty(params[0].shape[0], x.shape[1])
    loss, grads = x.new_empty(out.shape[0]), [torch.empty_like(p) for p in params]
    gradient = {"out": out, "grad": torch.empty_like(out), "dw": grads[0::2], "db": grads[1::2]}
    kept = _room(x, params[:-2:2], products, layer_norm, nets=1)
    _call("regress", products, _stack(x, params, layer_norm, kept, **gradient), target, loss)
    return out, loss, grads


def least(x: Tensor, params: Sequence[Tensor], products: torch.dtype, layer_norm: bool) -> tuple[Tensor, Tensor]:
    """Compute `functional.least`, (N / k, B), and its gradient for x."""
    x, params = x.contiguous(), [p.contiguous() for p in params]
    out, value, dx = x.new_empty(params[0].shape[0], x.shape[1]), x.new_empty(x.shape[:2]), torch.empty_like(x)
    kept = _room(x, params[:-2:2], products, layer_norm, nets=out.shape[0] // x.shape[0])
    _call("least", products, _stack(x, params, layer_norm, kept, out=out, dx=dx), value)
    return value, dx


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, products: torch.dtype, layer_norm: bool, tanh: bool, *params: Tensor) -> Tensor:
        x, params = x.contiguous(), tuple(p.contiguous() for p in params)
        kept = _room(x, params[:-2:2], products, layer_norm)
        out = _forward(x, params, products, layer_norm, tanh, kept)
        ctx.save_for_backward(x, *params, *(t for part in kept.values() for t in part))
        ctx.n_params, ctx.kept, ctx.how = len(params), tuple(kept), (products, layer_norm, tanh)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *rest = ctx.saved_tensors
        params, kept = rest[: ctx.n_params], rest[ctx.n_params :]
        n = ctx.n_params // 2 - 1
        named = {name: kept[i * n : (i + 1) * n] for i, name in enumerate(ctx.kept)}
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        back = [torch.empty_like(p) for p in params] if any(ctx.needs_input_grad[4:]) else []
        gradient = {"grad": grad.contiguous(), "dx": dx, "dw": back[0::2], "db": back[1::2]}
        products, layer_norm, tanh = ctx.how
        _call("backward", products, _stack(x, params, layer_norm, named, tanh, **gradient))
        return dx, None, None, None, *(back or [None] * len(params))


def multiply(times: int, rows: int, inner: int, columns: int, products: torch.dtype) -> None:
    """Multiply matrices of zeros with the product routine of `perceptron`, to measure its speed."""
    kernel = library(products)
    assert kernel is not None
    if kernel.multiply(times, rows, inner, columns):
        raise MemoryError("no memory for the matrix products")


def squash(out: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, ...] | None:
    """Compute `functional.squashed_sample` and noise * exp(log_std); return None if there is no kernel for it."""
    kernel = _any_library()
    if (
        kernel is None
        or not (_is_plain(out) and _is_plain(noise))
        or out.shape != (*noise.shape[:2], 2 * noise.shape[2])
    ):
        return None
    out, noise = out.contiguous(), noise.contiguous()
    act, u, offset = (torch.empty_like(noise) for _ in range(3))
    log_prob = noise.new_empty(noise.shape[:2])
    kernel.squash(log_prob.numel(), noise.shape[2], *_at(out, noise), _floats(*bounds), *_at(act, log_prob, u, offset))
    return act, log_prob, u, offset


def squash_gradient(
    out: Tensor, bounds: tuple[float, float], act: Tensor, offset: Tensor, grads: Sequence[Tensor | None]
) -> Tensor:
    """Compute the gradient of `squash` for `out` from those for action, log density and u (None: 0)."""
    kernel = _any_library()
    assert kernel is not None
    out = out.contiguous()
    given = [g if g is None else g.contiguous() for g in grads]
    d_act, d_log_prob = (
        torch.zeros_like(t) if g is None else g for t, g in zip((act, act[..., 0]), given, strict=False)
    )
    d_out = torch.empty_like(out)
    addresses = _at(act, offset, d_act, d_log_prob, given[2], d_out)
    kernel.unsquash(act[..., 0].numel(), act.shape[-1], *_at(out), _floats(*bounds), *addresses)
    return d_out


def adam(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state: tuple[Sequence[Tensor], Sequence[Tensor], Tensor],
    slow: Sequence[Tensor],
    how: tuple[float, ...],
) -> bool:
    """Do a step of `optim.Adam`; return False if there is no kernel for it."""
    kernel = _any_library()
    if kernel is None or not all(t.is_contiguous() and _is_plain(t) for t in params):
        return False
    sizes = (ctypes.c_int64 * len(params))(*(p.numel() for p in params))
    lists = [
        (ctypes.c_void_p * len(params))(*(t.data_ptr() for t in tensors))
        for tensors in (params, grads, *state[:2], slow)
        if tensors
    ]
    kernel.adam(len(params), sizes, *lists[:4], lists[4] if slow else None, *_at(state[2]), (ctypes.c_double * 5)(*how))
    return True


def _is_plain(x: Tensor) -> bool:
    return x.is_cpu and x.dtype is torch.float32 and x.numel() > 0


def _at(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]


def _floats(*numbers: float) -> ctypes.Array:
    return (ctypes.c_float * len(numbers))(*numbers)


def _any_library() -> ctypes.CDLL | None:
    """Return a library for operations without matrix products."""
    return library(torch.float32) or library(torch.bfloat16)


def _forward(
    x: Tensor,
    params: Sequence[Tensor],
    products: torch.dtype,
    layer_norm: bool,
    tanh: bool,
    kept: dict[str, list[Tensor]],
) -> Tensor:
    out = x.new_empty(params[0].shape[0], x.shape[1], params[-1].shape[-1])
    _call("forward", products, _stack(x, params, layer_norm, kept, tanh, out=out))
    return out


def _room(
    x: Tensor, weights: Sequence[Tensor], products: torch.dtype, layer_norm: bool, nets: int = 0
) -> dict[str, list[Tensor]]:
    """Allocate what the gradient needs of each hidden layer, for all networks or `nets`, in whole blocks of rows."""
    rows = -(-x.shape[1] // ROWS) * ROWS
    shapes = [(nets or w.shape[0], rows, w.shape[-1]) for w in weights]
    kept = {"h": [x.new_empty(shape, dtype=products) for shape in shapes]}
    if layer_norm:
        kept["y"] = [torch.empty_like(h) for h in kept["h"]]
        kept["scale"] = [x.new_empty(shape[:2]) for shape in shapes]
    return kept


def _stack(
    x: Tensor,
    params: Sequence[Tensor],
    layer_norm: bool,
    kept: dict[str, list[Tensor]],
    tanh: bool = False,
    **more: Any,
) -> _Stack:
    """Return sizes and addresses. The caller must keep the tensors alive."""
    weights = params[0::2]
    n = weights[0].shape[0]
    room = kept["h"][0].shape[0] if kept.get("h") else n
    sizes = {"nets": n, "batch": x.shape[1], "layers": len(weights), "share": n // x.shape[0], "room": room}
    stack = _Stack(layer_norm=layer_norm, tanh=tanh, **sizes)
    stack.width[: len(weights) + 1] = [x.shape[-1], *(w.shape[-1] for w in weights)]
    for name, value in {"x": x, "w": weights, "b": params[1::2], **kept, **more}.items():
        if isinstance(value, Tensor):
            setattr(stack, name, value.data_ptr())
        elif value is not None:
            getattr(stack, name)[: len(value)] = [t.data_ptr() for t in value]
    return stack


def _call(name: str, products: torch.dtype, stack: _Stack, *more: Tensor) -> None:
    kernel = library(products)
    assert kernel is not None
    if getattr(kernel, name)(ctypes.byref(stack), *_at(*more)):
        raise MemoryError(f"the perceptrons' {name} pass has no memory")
