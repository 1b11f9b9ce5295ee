"""`kernel.c` from Python: perceptrons with products rounded to bfloat16, on a processor that has tiles for them (AMX).

The file is compiled when it is first needed, by the C compiler `cc`, and kept in the user's cache folder under the hash
of what it was compiled from. Where the processor has no such tiles, or no compiler is found, torch's products are used
instead (`fused.py`): slower, and the same but for the rounding.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aihf_control.core.files import read_bytes, sha256

SOURCE = Path(__file__).with_suffix(".c")
SETS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx-tile", "amx-bf16")
ROWS, MOST, EPS = 32, 8, 1e-5  # rows at a time; most layers; of the layer normalisation
GIVEN = (f"-DROWS={ROWS}", f"-DMOST={MOST}", f"-DEPS={EPS}f")
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", *(f"-m{name}" for name in SETS), *GIVEN)
SWITCH = "AIHF_KERNEL"  # in the environment; 0 is torch's products


class _Stack(ctypes.Structure):
    """What kernel.c is told of a stack: sizes and addresses."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("nets", "batch", "layers", "layer_norm")),
        ("width", ctypes.c_int * (MOST + 1)),
        ("x", ctypes.c_void_p),
        *((name, ctypes.c_void_p * MOST) for name in ("w", "b", "h", "y", "scale")),
        *((name, ctypes.c_void_p) for name in ("out", "grad", "dx")),
        *((name, ctypes.c_void_p * MOST) for name in ("dw", "db")),
    )


def takes(x: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether `perceptron` can be used for these: float32 on the CPU, shapes that fit, hidden widths in whole tiles, a
    kernel. What does not fit is torch's to refuse."""
    plain = all(
        t.device.type == "cpu" and t.dtype == torch.float32 and t.dim() == 3 and t.numel() for t in (x, *params)
    )
    if not plain or len(params) > 2 * MOST or library() is None:
        return False
    n_in = x.shape[2]
    for w, b in zip(params[0::2], params[1::2], strict=True):
        if w.shape[:2] != (len(x), n_in) or b.shape != (len(x), 1, w.shape[2]):
            return False
        n_in = w.shape[2]
    return all(w.shape[2] % ROWS == 0 for w in params[:-2:2])


def perceptron(x: Tensor, params: Sequence[Tensor], layer_norm: bool) -> Tensor:
    """`fused.perceptron` with rounded products. x (N, B, in), then weight (N, in, out) and bias (N, 1, out) a layer."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *params)):
        return _Perceptron.apply(x, layer_norm, *params)
    return _forward(x.contiguous(), [p.contiguous() for p in params], layer_norm, {})


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer_norm: bool, *params: Tensor) -> Tensor:
        x, params = x.contiguous(), tuple(p.contiguous() for p in params)
        kept = _room(x, params[:-2:2], layer_norm)
        out = _forward(x, params, layer_norm, kept)
        ctx.save_for_backward(x, *params, *(t for part in kept.values() for t in part))
        ctx.n_params, ctx.kept, ctx.layer_norm = len(params), tuple(kept), layer_norm
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *rest = ctx.saved_tensors
        params, kept = rest[: ctx.n_params], rest[ctx.n_params :]
        n = ctx.n_params // 2 - 1
        named = {name: kept[i * n : (i + 1) * n] for i, name in enumerate(ctx.kept)}
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        back = [torch.empty_like(p) for p in params] if any(ctx.needs_input_grad[2:]) else []
        gradient = {"grad": grad.contiguous(), "dx": dx, "dw": back[0::2], "db": back[1::2]}
        _call("backward", _stack(x, params, ctx.layer_norm, named, **gradient))
        return dx, None, *(back or [None] * len(params))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where there is none."""
    return _load()[0]


def state() -> str:
    """What multiplies rounded factors on the CPU here: "tiles", or "torch" and why."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if not torch.cpu._is_amx_tile_supported():
        return None, "torch: the processor has no tiles for bfloat16"
    if os.environ.get(SWITCH) == "0":
        return None, f"torch: {SWITCH} is 0"
    try:
        kernel = _opened()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as e:  # RuntimeError: of a user without a home
        said = (getattr(e, "stderr", None) or str(e)).strip().splitlines()
        return None, f"torch: kernel.c cannot be had: {said[0] if said else e}"
    return (kernel, "tiles") if kernel.usable() == 0 else (None, "torch: the system does not lend its tiles")


def _opened() -> ctypes.CDLL:
    """The shared library; a damaged one is compiled again. Raises what `_compiled` does."""
    path = _compiled()
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink()
        return ctypes.CDLL(str(_compiled()))


def _compiled() -> Path:
    """The shared library, compiled unless it is there. Raises RuntimeError, OSError or CalledProcessError."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aihf_control"
    path = folder / f"kernel-{sha256(read_bytes(SOURCE) + ' '.join(FLAGS).encode())[:16]}.so"
    if not path.exists():
        compiler = shutil.which("cc")
        if not compiler:
            raise OSError("there is no C compiler, cc")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:  # several processes may be at it
            made = Path(aside) / path.name
            subprocess.run(
                [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
            )
            made.replace(path)
    return path


def _forward(x: Tensor, params: Sequence[Tensor], layer_norm: bool, kept: dict[str, list[Tensor]]) -> Tensor:
    out = x.new_empty(*x.shape[:2], params[-1].shape[-1])
    _call("forward", _stack(x, params, layer_norm, kept, out=out))
    return out


def _room(x: Tensor, weights: Sequence[Tensor], layer_norm: bool) -> dict[str, list[Tensor]]:
    """What the gradient needs of each hidden layer. Rows are padded to whole tiles."""
    rows = -(-x.shape[1] // ROWS) * ROWS
    shapes = [(len(x), rows, w.shape[-1]) for w in weights]
    kept = {"h": [x.new_empty(shape, dtype=torch.bfloat16) for shape in shapes]}
    if layer_norm:
        kept["y"] = [torch.empty_like(h) for h in kept["h"]]
        kept["scale"] = [x.new_empty(shape[:2]) for shape in shapes]
    return kept


def _stack(x: Tensor, params: Sequence[Tensor], layer_norm: bool, kept: dict[str, list[Tensor]], **more: Any) -> _Stack:
    """Sizes and addresses; who calls keeps the tensors alive."""
    weights = params[0::2]
    stack = _Stack(nets=len(x), batch=x.shape[1], layers=len(weights), layer_norm=layer_norm)
    stack.width[: len(weights) + 1] = [x.shape[-1], *(w.shape[-1] for w in weights)]
    for name, value in {"x": x, "w": weights, "b": params[1::2], **kept, **more}.items():
        if isinstance(value, Tensor):
            setattr(stack, name, value.data_ptr())
        elif value is not None:
            getattr(stack, name)[: len(value)] = [t.data_ptr() for t in value]
    return stack


def _call(name: str, stack: _Stack) -> None:
    kernel = library()
    assert kernel is not None
    if getattr(kernel, name)(ctypes.byref(stack)):
        raise MemoryError(f"the perceptrons' {name} pass found no memory")
