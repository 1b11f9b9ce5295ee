"""A training on the true reward that can be left off, or killed, and gone on with to the same bits."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from aihf_control.core.config import jsonable
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_json, write_json
from aihf_control.experts.true_reward import Learner, Pupil
from aihf_control.training.checkpoint import Checkpoints
from aihf_control.training.run_folder import CHECKPOINT, lock_run

LATER = ("updates",)  # settings that may be others when a training is gone on with


class Record(Protocol):
    """What is kept of what was seen on the way."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Seen = TypeVar("Seen", bound=Record)


class Training(Generic[Seen]):
    """A learner, what was seen of it, and the folder that keeps both while it lasts.

    Raises BadInput where the folder holds a training with other `settings`, or one that still runs.
    """

    def __init__(self, pupil: Pupil, seen: Seen, folder: Path, settings: dict[str, Any], minutes: float):
        self.pupil, self.seen, self.folder = pupil, seen, folder / CHECKPOINT
        self.seconds, self.last = 60 * minutes, time.monotonic()
        _check_same(self.folder / "begun.json", jsonable(settings))
        self.lock = lock_run(folder)
        write_json(self.folder / "begun.json", jsonable(settings))
        self.states = Checkpoints(self.folder)

    @property
    def parts(self) -> dict[str, Any]:
        """The replay, whose rows are appended to a file."""
        return {"replay": self.pupil.sampler.buffer}

    def state_dict(self) -> dict[str, Any]:
        return {"pupil": self.pupil.state_dict(), "seen": self.seen.state_dict()}

    def restore(self, tell: Callable[[str], None]) -> int:
        """Goes to the last state, if there is one; the updates done."""
        saved = self.states.last(tell)
        if saved:
            state = saved.state["task"]
            self.pupil.load_state_dict(state["pupil"], saved.state["replays"]["replay"])
            self.seen.load_state_dict(state["seen"])
        return self.pupil.k

    def run(self, look: Callable[[int, Learner], bool]) -> None:
        """Trains to the end, or until `look` at an update has seen enough. SIGTERM leaves off, with a state, by
        SystemExit 143."""
        asked = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
        try:
            for k, sac in self.pupil.learn():
                if look(k, sac):
                    break
                self.save(now=asked.is_set())
                if asked.is_set():
                    print(f"left off at update {k:,}; the same command goes on")
                    raise SystemExit(143)
        finally:
            signal.signal(signal.SIGTERM, before)

    def save(self, now: bool = False) -> None:
        """Writes a state when one is due."""
        if now or time.monotonic() - self.last >= self.seconds:
            self.states.save(self.pupil.k, [], self)
            self.last = time.monotonic()

    def close(self) -> None:
        """Forgets all states: for a training that has ended."""
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        return
    begun = read_json(path)
    given = begun if isinstance(begun, dict) else {}
    changed = [name for name in settings if name not in LATER and given.get(name) != settings[name]]
    if changed:
        told = ", ".join(f"{name} was {given.get(name)}, not {settings[name]}" for name in changed)
        raise BadInput(
            f"{path.parent.parent} holds a training begun otherwise: {told}; remove it or give another --out"
        )
