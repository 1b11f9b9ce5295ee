"""Log for TensorBoard, in addition to log.jsonl: `tensorboard --logdir results/runs`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import writing

INSTALL = "pip install 'aihf_control[tensorboard]'"


class TensorBoard:
    """A writer per seed, in `tensorboard/seed<k>` of a run's folder.

    A resumed run writes its log again from the start, so files of an earlier attempt are removed first. Raises BadInput
    if TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise BadInput(f"--tensorboard needs TensorBoard; install it with {INSTALL}")
        self.folder = folder / "tensorboard"
        self.writers: dict[int, Any] = {}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add the numbers of an evaluation, a row per seed."""
        with writing(self.folder):
            if not self.writers and self.folder.exists():
                shutil.rmtree(self.folder)
            for row in rows:
                writer = self._writer(row["seed"])
                for name, value in row.items():
                    if isinstance(value, int | float) and name not in ("seed", "step"):
                        writer.add_scalar(name, value, row["step"])
                writer.flush()

    def close(self) -> None:
        """End all writers."""
        for writer in self.writers.values():
            writer.close()

    def _writer(self, seed: int) -> Any:
        if seed not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            self.writers[seed] = SummaryWriter(str(self.folder / f"seed{seed}"))
        return self.writers[seed]
