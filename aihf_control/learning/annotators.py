"""Annotators of the segments that a policy plays: the interface, a synthetic teacher, and a function of the user.

An annotator is shown what a learner never sees: the true rewards, and the states of the simulator.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.labelling.teachers import Teacher

Array = np.ndarray


class Played(NamedTuple):
    """N segments of at most K steps that a policy has played."""

    rewards: Array
    """(N, K) true reward of each step, 0 after the end of an episode."""
    segments: list[Trajectory]
    """The segments, shorter than K where the episode ended; none if the annotator does not watch."""


class Query(NamedTuple):
    """N pairs of segments to compare."""

    first: Played
    second: Played
    u: Array
    """(N, 2) uniform numbers in [0, 1), for all that is drawn at random."""
    ended: Callable[[], bool]
    """Whether the run is to pause or to stop, so that waiting for answers has no use any more."""


class WaitingEnded(Exception):
    """The run is to pause or to stop while it waits for answers."""


@runtime_checkable
class Annotator(Protocol):
    """Compares segments while a method trains."""

    @property
    def ties(self) -> bool:
        """Whether a pair may be a tie. Then each has two rows, one each way, in what a method gets."""
        ...

    @property
    def watches(self) -> bool:
        """Whether it needs the segments, and not their rewards alone."""
        ...

    def compare(self, query: Query) -> Array:
        """Return weights (N, 2) of "first is better" and "second is better"; (0, 0) is a skipped pair.

        Raises WaitingEnded if the query has `ended` before there are answers.
        """
        ...


class TeacherAnnotator:
    """A dataset's synthetic teacher, with thresholds in units of the returns of the pool's segments of equal length."""

    watches = False

    def __init__(self, teacher: Teacher, pool: Sequence[Trajectory]):
        self.teacher, self.pool = teacher, pool
        self._scaled: dict[int, Teacher] = {}

    @property
    def ties(self) -> bool:
        return bool(self.teacher.equal)

    def compare(self, query: Query) -> Array:
        """Return the teacher's labels."""
        one, other = query.first.rewards, query.second.rewards
        return self.scaled(one.shape[1]).label(one, other, query.u)

    def scaled(self, length: int) -> Teacher:
        """Return the teacher for segments of this length."""
        if length not in self._scaled:
            gains = [t.return_of(s, length) for t in self.pool for s in range(0, t.starts(length), max(1, length // 2))]
            units = {"spread": float(np.std(gains)), "mean": float(np.mean(gains))} if gains else {}
            self._scaled[length] = dataclasses.replace(self.teacher, **units)
        return self._scaled[length]


@dataclasses.dataclass(frozen=True)
class FunctionAnnotator:
    """A function of two segments that returns how strongly the first is preferred.

    It gets two `Trajectory` of what was played (obs, act, reward, qpos, qvel, terminated), and returns a number from 0
    to 1: 1 (or True) for the first, 0 (or False) for the second, 0.5 for a tie; None skips the pair.
    """

    function: Callable[[Trajectory, Trajectory], float | None]
    ties: bool = True
    """Whether it may return numbers other than 0 and 1."""
    watches = True

    def compare(self, query: Query) -> Array:
        """Call the function for each pair. Raises BadInput if it returns anything else."""
        pairs = zip(query.first.segments, query.second.segments, strict=True)
        return np.array([self._weights(self.function(a, b)) for a, b in pairs], np.float32).reshape(-1, 2)

    def _weights(self, answer: Any) -> tuple[float, float]:
        if answer is None:
            return 0.0, 0.0
        try:
            p = float(answer)
        except (TypeError, ValueError):
            p = math.nan
        if not 0 <= p <= 1 or not (self.ties or p in (0, 1)):
            allowed = "a number from 0 to 1" if self.ties else "0 or 1"
            raise BadInput(f"the annotator returned {str(answer)[:60]!r}; it has to return {allowed}, or None to skip")
        return p, 1 - p


def as_annotator(given: Annotator | Callable[[Trajectory, Trajectory], float | None]) -> Annotator:
    """Return an annotator as it is, and a function as one. Raises BadInput for anything else."""
    if isinstance(given, Annotator):
        return given
    if not callable(given):
        raise BadInput(f"annotator is {str(given)[:60]!r}; give a function of two segments, or an Annotator")
    return FunctionAnnotator(given)
