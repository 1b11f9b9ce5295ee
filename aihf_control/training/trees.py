"""Files of nested values: dicts, lists, tuples, scalars, strings, arrays and tensors.

A file is a SHA-256 digest and a safetensors file, which has the tensors and, in its metadata, the rest as JSON.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, write_bytes

MAX_BYTES = 2**31  # of one file


def write_tree(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree to a file, atomically. Raises BadInput if it cannot be written."""
    tensors: dict[str, Tensor] = {}
    about = json.dumps(pack(tree, tensors))
    data = safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, {"about": about})
    write_bytes(path, hashlib.sha256(data).digest() + data)


def read_tree(path: Path) -> dict[str, Any]:
    """Read a tree without executing anything. Raises BadInput if the file is damaged."""
    data = read_bytes(path, MAX_BYTES)
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise BadInput(f"{path} is damaged")
    try:
        length = int.from_bytes(data[32:40], "little")
        about = json.loads(data[40 : 40 + length])["__metadata__"]["about"]
        tree = unpack(json.loads(about), safetensors.torch.load(data[32:]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as e:
        raise BadInput(f"{path} was not written by aihf_control") from e
    if not isinstance(tree, dict):
        raise BadInput(f"{path} was not written by aihf_control")
    return tree


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Convert a tree of dicts, lists, tuples, scalars, strings, arrays and tensors to JSON and `tensors`."""
    if isinstance(tree, Tensor | np.ndarray):
        tensors[path] = torch.as_tensor(tree)
        return {"tensor" if isinstance(tree, Tensor) else "array": path}
    if isinstance(tree, dict):
        return {"dict": [[key, pack(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path}: a checkpoint cannot contain a {type(tree).__name__}")


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that was given to `pack`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        return tensors[value].numpy()
    if kind == "dict":
        return {key: unpack(x, tensors) for key, x in value}
    values = [unpack(x, tensors) for x in value]
    return values if kind == "list" else tuple(values)
