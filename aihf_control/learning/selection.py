"""Selection of demonstrations before learning: windows of them, and the steps of those that were chosen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.replay import Batch
from aihf_control.learning.segments import Segments
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Random


def check_share(share: float, window: int) -> None:
    """Raise BadInput for a share of the demonstrations that is none, or a window below 0."""
    if not 0 < share <= 1 or window < 0:
        raise BadInput(f"--share {share}, --window {window}: give a share above 0 up to 1, and a window of at least 0")


def keep_best(score: Tensor, windows: Segments, share: float) -> Tensor:
    """Return 1 for the best `share` of each lane's windows by their score, (L, M), at least for one; 0 for the rest."""
    there = windows.rows > 0
    rank = score.where(there, -torch.inf).argsort(-1, descending=True).argsort(-1)
    keep = torch.tensor([max(1, math.floor(share * int(n) + 0.5)) for n in there.sum(-1)], device=score.device)
    return ((rank < keep[:, None]) & there).float()


class ChosenDemos:
    """Steps of the chosen windows of the demonstrations, each with the same probability."""

    def __init__(self, task: Task, windows: Segments, chosen: Tensor):
        self.demos, self.rng = task.demos, Random(task.dims, "chosen demonstrations")
        rows = windows.spread(chosen * windows.rows, task.demos.capacity)
        self.cumulated = rows.double().cumsum(-1)

    def sample(self, n: int) -> Batch:
        """Draw `n` transitions per lane, uniformly with replacement."""
        at = self.rng.uniform(n).double() * self.cumulated[:, -1:]
        return self.demos.read(torch.searchsorted(self.cumulated, at, right=True).clamp(max=self.demos.capacity - 1))

    def state_dict(self) -> dict:
        return {"rng": self.rng.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.rng.load_state_dict(state["rng"])
