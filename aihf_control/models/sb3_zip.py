"""The parts of a Stable-Baselines3 zip: its JSON and its tensors. None of its pickles is executed."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.files import parse_json, read_bytes

MAX_BYTES = 200 * 2**20
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the JSON and the tensors of a zip. Raises BadInput."""
    raw = read_bytes(path, MAX_BYTES)
    try:
        with _open_zip(raw, path) as z:
            data, tensors = parse_json(z.read("data"), f"{path}: data"), z.read("policy.pth")
        if zipfile.is_zipfile(io.BytesIO(tensors)):  # torch's format since 1.6
            _open_zip(tensors, path).close()
        with warnings.catch_warnings(action="ignore"):  # a fault is reported below, in one line
            weights = torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as e:  # torch and zipfile raise a dozen kinds on malformed input
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(data, dict):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: its data is not a table")
    return data, _floats(weights, path)


def _floats(weights: Any, path: Path) -> dict[str, Tensor]:
    """Check a table of tensors and convert them to float32. Raises BadInput."""
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise BadInput(f"{path} is not a Stable-Baselines3 zip: policy.pth is not a table of tensors")
    for name, v in weights.items():
        if (
            v.is_nested
            or v.layout != torch.strided
            or v.is_quantized
            or v.device.type != "cpu"
            or v.dtype not in FLOATS
        ):
            raise BadInput(f"{path}: tensor {name!r:.100} is not a dense tensor of floats")
    if sum(v.numel() for v in weights.values()) > MAX_BYTES:  # a tensor may have more elements than its storage
        raise BadInput(f"{path} has tensors of more than {MAX_BYTES >> 20} million numbers; that is no policy")
    converted = {name: v.detach().float() for name, v in weights.items()}
    for name, v in converted.items():
        if not torch.isfinite(v).all():
            raise BadInput(f"{path}: tensor {name!r:.100} has numbers that are not finite in float32")
    return converted


def _open_zip(raw: bytes, path: Path) -> zipfile.ZipFile:
    """Open a zip that unpacks to the size of a policy. Raises BadInput for a larger one."""
    z = zipfile.ZipFile(io.BytesIO(raw))
    if sum(i.file_size for i in z.infolist()) > MAX_BYTES:
        raise BadInput(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; that is no policy")
    return z
