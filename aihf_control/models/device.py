"""What a machine can do, and how a process is to use it."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

from aihf_control.core.errors import BadInput
from aihf_control.models.kernel import SETS


def use_one_thread() -> None:
    """Makes this process one of those that train: a single thread (two fight over the cores) that keeps its memory.

    Every update frees large blocks and takes the same ones again. glibc is told to keep them, because fetching them
    from the kernel anew costs about a tenth of an update; where libc is another, nothing is told.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def default_workers(device: str, n_lanes: int) -> int:
    """One process a core on the CPU, one alone on an accelerator."""
    return min(len(os.sched_getaffinity(0)), n_lanes) if device == "cpu" else 1


def device_of(name: str) -> str:
    """A device that can be used here; "auto" is an accelerator where there is one. Raises BadInput."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {name} cannot be used here: {str(e).splitlines()[0]}") from e
    return name


def processor() -> str:
    """Return the processor's name, with family and model where Linux says them: names alone are often shared."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def synchronize(device: torch.device) -> None:
    """Waits until all is done that a GPU was asked for: it is asked for much before it has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_precision(precision: str, device: str) -> str:
    """The type of the inner products: what was asked for, or for "auto" bfloat16 where the hardware multiplies it."""
    if precision != "auto":
        return precision
    on_cpu = any(s.is_supported() for s in SETS if s.products == torch.bfloat16)
    fast = on_cpu if device == "cpu" else torch.cuda.is_bf16_supported()
    return "bfloat16" if fast else "float32"
