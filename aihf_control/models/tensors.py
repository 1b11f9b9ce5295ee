"""Reader and writer of tensors in safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.files import parse_json, read_bytes, write_bytes

MAX_BYTES = 2**30


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON description of them to a safetensors file."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(path, safetensors.torch.save(tensors, {"about": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the tensors, all of them float32, and the description that `write_tensors` wrote. Raises BadInput."""
    data = read_bytes(path, MAX_BYTES)
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], f"cannot read {path}: its header")
    try:
        tensors = safetensors.torch.load(data)
    except Exception as e:  # safetensors raises its own error, KeyError for types, and others on malformed input
        raise BadInput(f"cannot read {path}: {' '.join(str(e).split())[:200]}") from e
    metadata = header.get("__metadata__") or {}
    about = parse_json(str(metadata.get("about", "null")).encode(), f"cannot read {path}: its description")
    if not isinstance(about, dict):
        raise BadInput(f"cannot read {path}: it was not written by aihf_control")
    for name, t in tensors.items():
        if t.dtype != torch.float32:
            raise BadInput(f"cannot read {path}: tensor {name!r:.100} is {t.dtype}, not torch.float32")
    return tensors, about
