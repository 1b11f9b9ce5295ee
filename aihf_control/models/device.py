"""Devices, threads and matmul precision."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

from aihf_control.core.errors import BadInput
from aihf_control.models.kernel_library import SETS


def use_one_thread() -> None:
    """Configure this process for training: one thread, and no return of freed memory to the kernel.

    Every update frees large blocks and allocates the same sizes again. Getting them from the kernel each time takes
    about a tenth of an update, so glibc is configured to keep them. Other C libraries are left as they are.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def default_workers(device: str, n_lanes: int) -> int:
    """Return the default number of workers: one per core on the CPU, one on an accelerator."""
    return min(len(os.sched_getaffinity(0)), n_lanes) if device == "cpu" else 1


def device_of(name: str) -> str:
    """Resolve a device name; "auto" is CUDA if available, else the CPU. Raises BadInput for an unusable device."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {name} cannot be used on this machine: {str(e).splitlines()[0]}") from e
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
    """Wait for queued GPU work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_precision(precision: str, device: str) -> str:
    """Resolve the matmul precision; "auto" is bfloat16 if the hardware multiplies it, else float32."""
    if precision != "auto":
        return precision
    on_cpu = any(s.is_supported() for s in SETS if s.products == torch.bfloat16)
    fast = on_cpu if device == "cpu" else torch.cuda.is_bf16_supported()
    return "bfloat16" if fast else "float32"
