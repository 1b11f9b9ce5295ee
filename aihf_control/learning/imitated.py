"""The data that behaviour cloning can imitate: demonstrations, and the segments of comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from aihf_control.core.errors import BadInput
from aihf_control.learning.replay import Buffer
from aihf_control.learning.task import Task


class Actions(Protocol):
    """Observations (L, B, O) and the actions taken there, (L, B, A)."""

    @property
    def obs(self) -> Tensor: ...

    @property
    def act(self) -> Tensor: ...


class ActionSampler(Protocol):
    """A source of observations and actions."""

    def sample(self, n: int, /) -> Actions: ...


class Imitated(NamedTuple):
    """Observations (L, B, O) and the actions taken there, (L, B, A)."""

    obs: Tensor
    act: Tensor


def clips_of(task: Task) -> Buffer:
    """Return the transitions inside the compared segments. Raises BadInput without comparisons."""
    if task.clips is None:
        raise BadInput("--clone.on needs compared segments; give at least one comparison with --pairs")
    return task.clips


class Union:
    """The demonstrations and the compared segments; every transition has the same probability."""

    def __init__(self, task: Task):
        self.demos, self.clips = task.demos, clips_of(task)

    def sample(self, n: int) -> Imitated:
        """Draw `n` transitions per lane, uniformly with replacement."""
        index = self.demos.rng.integers(self.demos.count + self.clips.count, n)
        n_demos = self.demos.count[:, None]
        demo, clip = self.demos.read(index.minimum(n_demos - 1)), self.clips.read((index - n_demos).clamp(min=0))
        from_demo = (index < n_demos)[..., None]
        return Imitated(torch.where(from_demo, demo.obs, clip.obs), torch.where(from_demo, demo.act, clip.act))


class Winners:
    """Steps of preferred segments, with a probability in proportion to the weights of their comparisons."""

    def __init__(self, task: Task):
        clips_of(task)
        self.pairs = task.comparisons()
        real = self.pairs.win.real * self.pairs.weight[..., None]
        self.cumulated = real.flatten(1).double().cumsum(-1)

    def sample(self, n: int) -> Imitated:
        """Draw `n` steps per lane with replacement."""
        at = self.pairs.rng.uniform(n).double() * self.cumulated[:, -1:]
        index = torch.searchsorted(self.cumulated, at, right=True).clamp(max=self.cumulated.shape[1] - 1)
        lane = torch.arange(len(index), device=index.device)[:, None]
        return Imitated(*(x.flatten(1, 2)[lane, index] for x in (self.pairs.win.obs, self.pairs.win.act)))


SOURCES: dict[str, Callable[[Task], ActionSampler]] = {
    "demos": lambda task: task.demos,
    "clips": clips_of,
    "both": Union,
    "winners": Winners,
}
"""The data of each value of `--clone.on`."""
