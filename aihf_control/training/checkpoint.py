"""Checkpoints: write and read what a worker needs to resume after a kill.

Each worker has its own folder. It contains up to two states, each written atomically, and one file per replay buffer to
which new rows are appended; a state records how many bytes of it are valid, and their digests. `done.state` is written
when a worker has finished, and contains what it has learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes, writing
from aihf_control.learning.replay import Buffer
from aihf_control.learning.task import Task

KEPT = 2
FORM = 4  # version of the contents of a state; increase it when they change
DONE = "done.state"


class Saved(NamedTuple):
    """A state: its step, the rows of the log up to that step, and the states of task and method."""

    step: int
    rows: list[dict[str, Any]]
    state: dict[str, Any]


class Kept(Protocol):
    """What can be saved: a task with the objects of its method, or an expert's training. Buffers among `parts` are
    saved row by row."""

    @property
    def parts(self) -> dict[str, Any]: ...

    def state_dict(self) -> dict[str, Any]: ...


class Checkpoints:
    """The states of one worker in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.chunks: dict[str, list[dict[str, Any]]] = {}  # what was appended, by replay buffer

    def save(self, step: int, rows: list[dict[str, Any]], task: Kept) -> None:
        """Write the state at `step` and remove the oldest. Raises BadInput if it cannot be written."""
        for name, buffer in _replays(task).items():
            self._append(name, buffer)
        self._write(
            f"{step:012d}.state",
            {"form": FORM, "step": step, "rows": rows, "chunks": self.chunks, "task": task.state_dict()},
        )
        for path in self._states()[:-KEPT]:
            with writing(path):
                path.unlink()

    def finish(self, step: int, rows: list[dict[str, Any]], learned: dict[str, Any]) -> None:
        """Write what a finished worker has learned."""
        self._write(DONE, {"step": step, "rows": rows, "learned": learned})

    def finished(self, tell: Callable[[str], None] = print) -> Saved | None:
        """Return what `finish` wrote, or None if it was not called or its file is damaged."""
        path = self.folder / DONE
        if not path.is_file():
            return None
        try:
            tree = _read(path)
        except BadInput as e:
            tell(f"{e}; an earlier one is used")
            return None
        return Saved(tree["step"], tree["rows"], tree["learned"])

    def last(self, tell: Callable[[str], None] = print) -> Saved | None:
        """Return the newest undamaged state with its replay buffers, or None. Damaged ones are reported to `tell`.

        Raises BadInput for a state of another version of this package.
        """
        for path in reversed(self._states()):
            try:
                tree = _read(path)
                replays = {name: self._rows(name, chunks) for name, chunks in tree["chunks"].items()}
            except BadInput as e:
                tell(f"{e}; an earlier one is used")
                with writing(path):
                    path.rename(path.with_suffix(".damaged"))
                continue
            if tree.get("form") != FORM:
                raise BadInput(
                    f"{path} was written by another version of aihf_control; resume with that version, "
                    f"or remove {self.folder} to start again"
                )
            self.chunks = tree["chunks"]
            self._cut()
            return Saved(tree["step"], tree["rows"], {"task": tree["task"], "replays": replays})
        return None

    def _states(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("*.state") if p.stem.isdigit())

    def _write(self, name: str, tree: dict[str, Any]) -> None:
        tensors: dict[str, Tensor] = {}
        about = json.dumps(pack(tree, tensors))
        data = safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, {"about": about})
        write_bytes(self.folder / name, hashlib.sha256(data).digest() + data)

    def _append(self, name: str, buffer: Buffer) -> None:
        chunks = self.chunks.setdefault(name, [])
        rows = buffer.since(chunks[-1]["until"] if chunks else 0).cpu().numpy()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{name}.rows").open("ab") as f:
                f.truncate(sum(chunk["bytes"] for chunk in chunks))  # removes the rest of a failed save
                f.write(rows.tobytes())
                f.flush()
                os.fsync(f.fileno())
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        chunks.append(
            {"until": int(buffer.count[0]), "bytes": rows.nbytes, "shape": list(rows.shape), "sha256": digest}
        )

    def _rows(self, name: str, chunks: list[dict[str, Any]]) -> Tensor:
        """Return all appended rows, (n, L, width). Raises BadInput if the file is damaged."""
        path, parts = self.folder / f"{Path(name).name}.rows", []
        try:
            with path.open("rb") as f:
                for chunk in chunks:
                    data = f.read(chunk["bytes"])
                    if hashlib.sha256(data).hexdigest() != chunk["sha256"]:
                        raise BadInput(f"{path} is damaged")
                    parts.append(np.frombuffer(data, np.float32).reshape(chunk["shape"]))
        except OSError as e:
            raise BadInput(f"cannot read {path}: {e.strerror}") from e
        return torch.from_numpy(np.concatenate(parts))

    def _cut(self) -> None:
        """Remove rows that were appended after the state."""
        for name, chunks in self.chunks.items():
            path = self.folder / f"{name}.rows"
            with writing(path):
                os.truncate(path, sum(chunk["bytes"] for chunk in chunks))


def restore(task: Task, saved: Saved) -> None:
    """Set up a new task to resume from a state. The method's loop restores its part when it reaches it."""
    task.resume(saved.state["task"], saved.state["replays"])


def _replays(task: Kept) -> dict[str, Buffer]:
    return {name: part for name, part in task.parts.items() if isinstance(part, Buffer)}


def _read(path: Path) -> dict[str, Any]:
    """Read a state without executing anything. Raises BadInput if the file is damaged."""
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise BadInput(f"{path} is damaged")
        length = int.from_bytes(data[32:40], "little")
        about = json.loads(data[40 : 40 + length])["__metadata__"]["about"]
        return unpack(json.loads(about), safetensors.torch.load(data[32:]))
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as e:
        raise BadInput(f"{path} was not written by aihf_control") from e


# --------------------------------------------------------------------------------------- trees as JSON and tensors


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


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.\w+\.tmp", path.name):
            path.unlink(missing_ok=True)
