"""Options of the `yardstick` command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from aihf_control.core.errors import BadInput, above_zero, at_least_one
from aihf_control.environments.cards import folder_name
from aihf_control.environments.watchdog import DEFAULT_TIMEOUT, StepTimeout


@dataclasses.dataclass(frozen=True)
class Options:
    """Learner, environment and budget of a measurement."""

    env: str = "Hopper-v4"
    """Gymnasium id."""
    learner: Literal["ours", "sb3"] = "ours"
    """Implementation of SAC."""
    seeds: int = 5
    """Number of seeds, from 0 on: lanes of ours, runs of SB3's one after another."""
    steps: int = 100_000
    """Environment steps, each followed by an update from step 1000 on."""
    evaluations: int = 20
    """Number of evaluations, at equal intervals."""
    width: int = 128
    """Width of the two hidden layers."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of our matrix products. SB3's are float32."""
    checkpoint: float = 3.0
    """Minutes between checkpoints of ours."""
    out: Path = Path("results/yardstick")
    """Folder of the csv files."""
    step_timeout: StepTimeout = DEFAULT_TIMEOUT
    table: bool = False
    """Only compare the measurements in the folder."""
    reach: float = 0.8
    """Share of the bundled expert's return to which the table gives the time."""

    @property
    def csv(self) -> Path:
        """The file of the measurement."""
        suffix = "" if self.learner == "sb3" else f"-{self.precision}"
        return self.out / f"{folder_name(self.env)}_{self.learner}{suffix}.csv"

    @property
    def every(self) -> int:
        """Environment steps between evaluations."""
        return self.steps // self.evaluations

    @property
    def about(self) -> dict[str, Any]:
        """The columns that are the same in every row."""
        precision = "float32" if self.learner == "sb3" else self.precision
        return {"env": self.env, "learner": self.learner, "precision": precision, "width": self.width}

    def check(self) -> None:
        """Raise BadInput for a value out of range."""
        at_least_one({f"--{name}": getattr(self, name) for name in ("seeds", "steps", "evaluations", "width")})
        if self.steps % self.evaluations:
            raise BadInput(f"--steps must be a multiple of --evaluations, {self.evaluations}, got {self.steps}")
        above_zero("--checkpoint", self.checkpoint, "minutes")
