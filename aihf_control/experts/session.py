"""A training on the true reward that resumes after SIGTERM or a kill, to the same bits."""

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

LATER = ("updates",)  # settings that may differ when a training is resumed


class Record(Protocol):
    """The evaluations that a training collects."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Seen = TypeVar("Seen", bound=Record)


class Training(Generic[Seen]):
    """A learner, its evaluations, and the folder with the checkpoints of both.

    Raises BadInput if the folder holds a training with other `settings`, or one that is still running.
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
        """Return the state of the learner and of the evaluations, without the replay's rows."""
        return {"pupil": self.pupil.state_dict(), "seen": self.seen.state_dict()}

    def restore(self, tell: Callable[[str], None]) -> int:
        """Restore the last checkpoint, if there is one; return the number of updates done."""
        saved = self.states.last(tell)
        if saved:
            state = saved.state["task"]
            self.pupil.load_state_dict(state["pupil"], saved.state["replays"]["replay"])
            self.seen.load_state_dict(state["seen"])
        return self.pupil.k

    def run(self, look: Callable[[int, Learner], bool]) -> None:
        """Train to the end, or until `look` returns True for an update.

        SIGTERM writes a checkpoint and raises SystemExit 143.
        """
        asked = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
        try:
            for k, sac in self.pupil.learn():
                if look(k, sac):
                    break
                self.save(now=asked.is_set())
                if asked.is_set():
                    print(f"paused at update {k:,}; resume with the same command")
                    raise SystemExit(143)
        finally:
            signal.signal(signal.SIGTERM, before)

    def save(self, now: bool = False) -> None:
        """Write a checkpoint if one is due, or `now`."""
        if now or time.monotonic() - self.last >= self.seconds:
            self.states.save(self.pupil.k, [], self)
            self.last = time.monotonic()

    def close(self) -> None:
        """Remove the checkpoints of a training that has ended."""
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
