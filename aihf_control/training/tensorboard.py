"""The log for TensorBoard, beside the jsonl: `tensorboard --logdir results/runs`. An extra; the jsonl is the record."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import writing

INSTALL = "pip install 'aihf_control[tensorboard]'"


class TensorBoard:
    """A writer for each seed, in `tensorboard/seed<k>` of a run's folder.

    Raises BadInput where TensorBoard is not installed. A run that is resumed tells its log again from the start, so
    what an earlier attempt has left goes first.
    """

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise BadInput(f"--tensorboard needs TensorBoard; install it with {INSTALL}")
        self.folder = folder / "tensorboard"
        self.writers: dict[int, Any] = {}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """One evaluation: of each seed's row every number, at its step."""
        with writing(self.folder):
            if not self.writers and self.folder.exists():
                shutil.rmtree(self.folder)
            for row in rows:
                writer = self._writer(row["seed"])
                for name, value in row.items():
                    if isinstance(value, int | float) and name not in ("seed", "step"):
                        writer.add_scalar(name, value, row["step"])
                writer.flush()

    def _writer(self, seed: int) -> Any:
        if seed not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            self.writers[seed] = SummaryWriter(str(self.folder / f"seed{seed}"))
        return self.writers[seed]
