"""The iterations of a method, and the saving and restoring of everything that changes during them."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from aihf_control.core.errors import refuse_misfit
from aihf_control.models.lanes import Random


class Stateful(Protocol):
    """An object whose state can be saved."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass
class Usage:
    """Environment steps and labels that a method has used."""

    n_steps: np.ndarray
    """Environment steps of each lane, (L,)."""
    n_given: int = 0
    """Labels per lane of the dataset that the method has read."""
    n_asked: int = 0
    """Labels per lane that the method has asked the annotator for."""

    def state_dict(self) -> dict[str, Any]:
        return {"n_steps": self.n_steps.tolist(), "labels": [self.n_given, self.n_asked]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_steps[:] = state["n_steps"]
        self.n_given, self.n_asked = state["labels"]


class TaskState:
    """Counter of a method's iterations, and the state of the method and of its task.

    `sections` are the parts of the task that change, each with its own top-level keys in the state; `streams` are the
    task's random streams by name. `parts` are the method's own, given when its iterations begin.
    """

    def __init__(self, sections: Sequence[Stateful], streams: dict[str, Random]):
        self.sections, self.streams = sections, streams
        self.parts: dict[str, Any] = {}
        self.step = 0
        self._saved: tuple[dict[str, Any], dict[str, Tensor]] | None = None

    def iterate(self, parts: dict[str, Any]) -> Iterator[int]:
        """Count iterations from 1, or from the one after a saved state, without end."""
        self.parts, self.step = parts, self._restore(parts)
        while True:
            self.step += 1
            yield self.step

    def resume(self, state: dict[str, Any], replays: dict[str, Tensor]) -> None:
        """Restore a state when the iterations begin; `replays` are the rows of the replay buffers by part."""
        self._saved = state, replays

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes during the iterations, except the rows of replay buffers."""
        state: dict[str, Any] = {
            "step": self.step,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }
        for section in self.sections:
            state |= section.state_dict()
        return state

    def _restore(self, parts: dict[str, Any]) -> int:
        """Load the saved state, if there is one; return the number of its iterations."""
        if self._saved is None:
            return 0
        (state, replays), self._saved = self._saved, None
        with refuse_misfit("the checkpoint does not fit the settings of this run; remove it to begin anew"):
            self._load(parts, state, replays)
            return operator.index(state["step"])

    def _load(self, parts: dict[str, Any], state: dict[str, Any], replays: dict[str, Tensor]) -> None:
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        for name, rows in replays.items():
            parts[name].restore_rows(rows)
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])
        for section in self.sections:
            section.load_state_dict(state)
