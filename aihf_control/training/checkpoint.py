"""Checkpoints: write and read what a worker needs to resume after a kill.

Each worker has its own folder. It contains up to two states, each written atomically, and one file per replay buffer to
which new rows are appended; a state records how many bytes of it are valid, and their digests. `done.state` is written
when a worker has finished, and contains what it has learned.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aihf_control.core.errors import BadInput, refuse_misfit
from aihf_control.core.files import read_bytes, writing
from aihf_control.learning.replay import Buffer
from aihf_control.learning.task import Task
from aihf_control.training.trees import read_tree, write_tree

KEPT = 2
FORM = 4  # version of the contents of a state; increase it when they change
DONE = "done.state"


class Saved(NamedTuple):
    """A state: its step, the rows of the log up to that step, and the states of task and method."""

    step: int
    rows: list[dict[str, Any]]
    state: dict[str, Any]


class Saveable(Protocol):
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

    def save(self, step: int, rows: list[dict[str, Any]], task: Saveable) -> None:
        """Write the state at `step` and remove the oldest. Raises BadInput if it cannot be written."""
        for name, buffer in _replays(task).items():
            self._append(name, buffer)
        tree = {"form": FORM, "step": step, "rows": rows, "chunks": self.chunks, "task": task.state_dict()}
        write_tree(self.folder / f"{step:012d}.state", tree)
        for path in self._states()[:-KEPT]:
            with writing(path):
                path.unlink()

    def finish(self, step: int, rows: list[dict[str, Any]], learned: dict[str, Any]) -> None:
        """Write what a finished worker has learned."""
        write_tree(self.folder / DONE, {"step": step, "rows": rows, "learned": learned})

    def finished(self, report: Callable[[str], None] = print) -> Saved | None:
        """Return what `finish` wrote, or None if it was not called or its file is damaged."""
        path = self.folder / DONE
        if not path.is_file():
            return None
        try:
            tree = read_tree(path)
            _check(path, tree, {"learned": dict})
            _check_learned(path, tree["learned"])
        except BadInput as e:
            report(f"{e}; an earlier one is used")
            return None
        return Saved(tree["step"], tree["rows"], tree["learned"])

    def last(self, report: Callable[[str], None] = print) -> Saved | None:
        """Return the newest undamaged state with its replay buffers, or None. Damaged ones are reported to `report`.

        Raises BadInput for a state of another version of this package.
        """
        for path in reversed(self._states()):
            try:
                tree = read_tree(path)
                saved = self._load(path, tree) if tree.get("form") == FORM else None
            except BadInput as e:
                report(f"{e}; an earlier one is used")
                with writing(path):
                    path.rename(path.with_suffix(".damaged"))
                continue
            if saved is None:
                raise BadInput(
                    f"{path} was written by another version of aihf_control; resume with that version, "
                    f"or remove {self.folder} to start again"
                )
            self.chunks = tree["chunks"]
            self._cut()
            return saved
        return None

    def _load(self, path: Path, tree: dict[str, Any]) -> Saved:
        """Check a state's tree and read the rows of its replays. Raises BadInput."""
        _check(path, tree, {"chunks": dict, "task": dict})
        replays = {name: self._rows(name, chunks) for name, chunks in tree["chunks"].items()}
        return Saved(tree["step"], tree["rows"], {"task": tree["task"], "replays": replays})

    def _states(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("*.state") if p.stem.isdigit())

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
        path, parts, at = self.folder / f"{Path(name).name}.rows", [], 0
        data = read_bytes(path)
        with refuse_misfit(f"{path} is not what its state describes"):
            for chunk in chunks:
                part, at = data[at : at + chunk["bytes"]], at + chunk["bytes"]
                if len(part) != chunk["bytes"] or hashlib.sha256(part).hexdigest() != chunk["sha256"]:
                    raise BadInput(f"{path} is damaged")
                parts.append(np.frombuffer(part, np.float32).reshape(chunk["shape"]))
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


def _replays(task: Saveable) -> dict[str, Buffer]:
    return {name: part for name, part in task.parts.items() if isinstance(part, Buffer)}


def _check(path: Path, tree: dict[str, Any], kinds: dict[str, type]) -> None:
    """Check step and rows of a state, and that it has fields of these kinds. Raises BadInput."""
    fits = all(isinstance(tree.get(name), kind) for name, kind in kinds.items())
    step, rows = tree.get("step"), tree.get("rows")
    if not (fits and type(step) is int and step >= 0 and isinstance(rows, list) and all(map(_is_row, rows))):
        raise BadInput(f"{path} was not written by aihf_control")


def _check_learned(path: Path, learned: dict[str, Any]) -> None:
    """Check the fields of what a process has learned: tensors by name of a policy and, if any, of a reward."""
    policy, reward = learned.get("policy"), learned.get("reward", "")
    kinds = {"kind": str, "tensors": dict, "settings": dict}
    fits = reward is None or (
        isinstance(reward, dict)
        and reward.keys() == kinds.keys()
        and all(isinstance(reward[name], kind) for name, kind in kinds.items())
        and _are_tensors(reward["tensors"])
    )
    if not (fits and isinstance(policy, dict) and policy and _are_tensors(policy)):
        raise BadInput(f"{path} was not written by aihf_control")


def _are_tensors(table: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(t, Tensor) for name, t in table.items())


def _is_row(row: Any) -> bool:
    """Return whether this is a row of the log: whole numbers `seed` and `step`, and numbers or lists of numbers."""
    if not isinstance(row, dict) or type(row.get("seed")) is not int or type(row.get("step")) is not int:
        return False
    values = [x for value in row.values() for x in (value if isinstance(value, list) else [value])]
    return "return" in row and all(type(x) in (int, float) for x in values)
