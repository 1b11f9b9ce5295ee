"""Reads and writes tensors as safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """A safetensors file, what it is told beside it as JSON."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(path, safetensors.torch.save(tensors, {"about": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "pt") as f:
            about = json.loads((f.metadata() or {}).get("about", "null"))
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        raise BadInput(f"cannot read {path}: {e}") from e
    if not isinstance(about, dict):
        raise BadInput(f"cannot read {path}: it was not written by aihf_control")
    return tensors, about
