"""Reuse of results that do not depend on the rest of a run, such as a clone or a reward fitted to given comparisons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from aihf_control.core.errors import refuse_misfit
from aihf_control.learning.task_state import Stateful


class Store(Protocol):
    """Stored states by key, of runs with the same data, lanes, device and versions."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, state: dict[str, Any]) -> None: ...


def compute_once(
    store: Store, what: tuple[Any, ...], parts: Mapping[str, Stateful], compute: Callable[[], None]
) -> None:
    """Run `compute`, which changes `parts`, or load what it made of the same parts before.

    `what` names the computation with its settings. The key is a hash of it and of the states of all parts, random
    streams among them, so the parts are the same in both cases.
    """
    key = hash_of(what, {name: part.state_dict() for name, part in parts.items()})
    found = store.get(key)
    if found is None:
        compute()
        store.put(key, {name: part.state_dict() for name, part in parts.items()})
        return
    with refuse_misfit("the stored result does not fit this run; remove the folder of --reuse"):
        for name, part in parts.items():
            part.load_state_dict(found[name])


def hash_of(*trees: Any) -> str:
    """Return a hash of nested dicts, sequences, tensors, and objects that differ by their `repr`."""
    digest = hashlib.sha256()
    for tree in trees:
        _add(digest, tree)
    return digest.hexdigest()


def _add(digest: Any, tree: Any) -> None:
    if isinstance(tree, Tensor):
        digest.update(f"tensor {tree.dtype} {tuple(tree.shape)}".encode())
        digest.update(tree.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(tree, dict):
        digest.update(f"dict {len(tree)}".encode())
        for key, value in tree.items():
            _add(digest, key)
            _add(digest, value)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        digest.update(f"list {len(tree)}".encode())
        for value in tree:
            _add(digest, value)
    else:
        digest.update(f"{type(tree).__name__} {tree!r}\n".encode())
