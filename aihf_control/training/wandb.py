"""Log for Weights & Biases, in addition to log.jsonl. `WANDB_MODE=offline` keeps it on this machine."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import writing

INSTALL = "pip install 'aihf_control[wandb]'"
PROJECT = "aihf_control"  # W&B's own WANDB_PROJECT replaces it


class WandB:
    """A run of Weights & Biases with the columns of every seed, `seed0/return`, over the iterations `step`.

    It begins with the first evaluation; a resumed run sends its log again, as a run of its own. Raises BadInput if
    wandb is not installed.
    """

    def __init__(self, folder: Path, name: str, config: dict[str, Any]):
        try:
            self.wandb: Any = importlib.import_module("wandb")
        except ImportError as e:
            raise BadInput(f"--wandb needs wandb; install it with {INSTALL}") from e
        self.folder, self.name, self.config = folder, name, config
        self.run: Any = None

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add the numbers of an evaluation, a row per seed."""
        with writing(self.folder):
            if self.run is None:
                self.run = self._begin()
            numbers: dict[str, Any] = {"step": rows[0]["step"]}
            for row in rows:
                columns = {name: value for name, value in row.items() if isinstance(value, int | float)}
                numbers |= {
                    f"seed{row['seed']}/{name}": x for name, x in columns.items() if name not in ("seed", "step")
                }
            self.run.log(numbers)

    def close(self) -> None:
        """End the run of Weights & Biases."""
        if self.run is not None:
            self.run.finish()

    def _begin(self) -> Any:
        settings = self.wandb.Settings(console="off", silent=True)
        project = None if "WANDB_PROJECT" in os.environ else PROJECT
        run = self.wandb.init(project=project, name=self.name, dir=self.folder, config=self.config, settings=settings)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run
