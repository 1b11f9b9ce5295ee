"""Training on the true reward with checkpoints; it resumes after SIGTERM or a kill with the same bits."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from aihf_control.core.config import jsonable
from aihf_control.core.errors import BadInput, refuse_misfit
from aihf_control.core.files import read_json, write_json
from aihf_control.core.signals import signal_handlers
from aihf_control.experts.true_reward import Learner, TrueRewardTrainer
from aihf_control.training.checkpoint import Checkpoints
from aihf_control.training.run_folder import CHECKPOINT, lock_run

SETTINGS = "begun.json"  # in the folder of checkpoints
MAY_DIFFER = ("updates",)  # settings that may differ when a training is resumed


class Record(Protocol):
    """Evaluations collected during a training."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


AnyRecord = TypeVar("AnyRecord", bound=Record)


class TrainingSession(Generic[AnyRecord]):
    """A trainer, the record of its evaluations, and the checkpoints of both in a locked folder.

    Raises BadInput if the folder has a training with other `settings`, or one that is still running.
    """

    def __init__(
        self, trainer: TrueRewardTrainer, record: AnyRecord, folder: Path, settings: dict[str, Any], minutes: float
    ):
        self.trainer, self.record, self.folder = trainer, record, folder / CHECKPOINT
        self.interval, self.last_saved = 60 * minutes, time.monotonic()
        _check_settings(folder, jsonable(settings))
        self.lock = lock_run(folder)
        write_json(self.folder / SETTINGS, jsonable(settings))
        self.checkpoints = Checkpoints(self.folder)

    @property
    def parts(self) -> dict[str, Any]:
        """The replay buffer, whose rows are appended to a file."""
        return {"replay": self.trainer.sampler.buffer}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trainer and of the record, without the rows of the replay buffer."""
        # the keys are those of stored checkpoints
        return {"pupil": self.trainer.state_dict(), "seen": self.record.state_dict()}

    def restore(self, report: Callable[[str], None]) -> int:
        """Restore the last intact checkpoint, if any; return the number of updates done.

        `report` is called with a message for each damaged checkpoint.
        """
        saved = self.checkpoints.last(report)
        if saved:
            state = saved.state["task"]
            with refuse_misfit(f"the checkpoint in {self.folder} does not fit this training; remove it to begin anew"):
                self.trainer.load_state_dict(state["pupil"], saved.state["replays"]["replay"])
                self.record.load_state_dict(state["seen"])
        return self.trainer.k

    def run(self, stop_after: Callable[[int, Learner], bool]) -> None:
        """Train to the last update, or to the first one for which `stop_after(k, learner)` is True.

        SIGTERM writes a checkpoint and raises SystemExit(143).
        """
        terminated = threading.Event()
        with signal_handlers({signal.SIGTERM: terminated.set}):
            for k, learner in self.trainer.learn():
                if stop_after(k, learner):
                    break
                self.save(now=terminated.is_set())
                if terminated.is_set():
                    print(f"Paused at update {k:,}. Resume with the same command.")
                    raise SystemExit(143)

    def save(self, now: bool = False) -> None:
        """Write a checkpoint if one is due, or `now`."""
        if now or time.monotonic() - self.last_saved >= self.interval:
            self.checkpoints.save(self.trainer.k, [], self)
            self.last_saved = time.monotonic()

    def close(self) -> None:
        """Release the folder and remove the checkpoints of a finished training."""
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / CHECKPOINT / SETTINGS
    if not path.exists():
        return
    stored = read_json(path)
    before = stored if isinstance(stored, dict) else {}
    changed = [name for name in settings if name not in MAY_DIFFER and before.get(name) != settings[name]]
    if changed:
        listed = ", ".join(f"{name} was {before.get(name)}, not {settings[name]}" for name in changed)
        raise BadInput(f"{folder} has a training with other settings: {listed}; remove it or give another --out")
