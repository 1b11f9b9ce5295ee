"""Events of a run, as its processes yield them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from aihf_control.models.reward_state import RewardState


@dataclasses.dataclass(frozen=True)
class Tick:
    """Progress: the lanes of `seeds` have done `step` iterations."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """Progress before or between iterations: the lanes of `seeds` have done `done` of `total` units of a phase."""

    seeds: tuple[int, ...]
    name: str
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """An evaluation: one row a lane with seed, step, returns of the episodes, reward quality, the method's scalars."""

    step: int
    rows: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of the lanes of `seeds`: the state of the policy and the reward, lanes first."""

    seeds: tuple[int, ...]
    step: int
    policy: dict[str, Tensor]
    reward: RewardState | None


@dataclasses.dataclass(frozen=True)
class Failed:
    """A worker cannot continue, because of bad input or of a bug (then `message` is a traceback)."""

    message: str
    bad_input: bool


@dataclasses.dataclass(frozen=True)
class Paused:
    """The lanes of `seeds` have stopped as requested, with a checkpoint on the disk."""

    seeds: tuple[int, ...]
    step: int


@dataclasses.dataclass(frozen=True)
class Notice:
    """A message to the user that does not stop the run."""

    message: str


Event = Tick | Phase | Evaluated | Finished | Failed | Paused | Notice
