"""Synthetic teachers that compare segments by their true rewards: B-Pref's six, in its order of operations.

Lee, Smith, Dragan, Abbeel: B-Pref, arXiv 2111.03026. A teacher may skip pairs, declare ties, discount early steps,
label stochastically, or make mistakes. A seventh teacher, `cyclic`, has preferences that no reward explains.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from aihf_control.core.errors import BadInput

Array = np.ndarray

TeacherName = Literal["oracle", "noisy", "mistake", "skip", "myopic", "equal", "cyclic"]
TEACHERS: dict[TeacherName, dict[str, float]] = {
    "oracle": {},
    "noisy": {"temperature": 0.2},
    "mistake": {"error": 0.1},
    "skip": {"skip": -0.5},
    "myopic": {"memory": 0.9},
    "equal": {"equal": 0.1},
    "cyclic": {"parts": 3},
}
"""B-Pref's teachers and `cyclic`: the field of `Teacher` in which each differs from the oracle. Two values of its
teachers are not B-Pref's. Its temperature of 1 on raw returns gives nearly deterministic labels in one environment and
nearly random ones in another. Its skip threshold, a tenth of the mean return, skips no pair of a pool whose worst
segments exceed it. Half a standard deviation below the mean skips a tenth of the pairs of a pool with normally
distributed returns."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Teacher that compares two segments by their undiscounted true returns G_a and G_b; temperature 0 is the oracle.

    Operations, in this order. A pair is skipped if neither G exceeds `mean` by more than `skip` spreads. It is a tie if
    G_a and G_b differ by less than `equal` spreads. Otherwise a is preferred with probability sigmoid((H_a - H_b) /
    (temperature * spread)), where H = sum of memory^(K - t) r_t over the steps t = 1 ... K of a segment; later steps
    weigh more, and memory 1 gives G. Temperature 0 always prefers the greater H and draws at random where both are
    equal. With `parts` = 3, the same rule with a third of the spread is applied to each third of the segments, and the
    majority decides: with returns by third of a (3, 1, 2), b (2, 3, 1) and c (1, 2, 3), a is preferred to b, b to c,
    and c to a. Finally, with probability `error`, a label that is not a tie is flipped.

    B-Pref's thresholds are in units of the acting policy's mean return, which may be 0 or negative. Here they are in
    units of the pool: `mean` and `spread` are the mean and the standard deviation of G over its segments, so a setting
    has the same effect in every environment. Settings of several teachers may be combined.
    """

    temperature: float = 0.2
    error: float = 0.0
    spread: float = 1.0
    skip: float | None = None
    equal: float = 0.0
    memory: float = 1.0
    mean: float = 0.0
    parts: float = 1

    def __post_init__(self):
        if self.parts not in (1, 3):
            raise BadInput(f"an annotator has 1 or 3 parts of a segment that vote, got {self.parts}")

    def label(self, first: Array, second: Array, u: Array) -> Array:
        """Label N pairs; return weights (N, 2) of "first is better" and "second is better".

        first, second (N, K): true reward of each step, 0 after the end of an episode. u (N, 2): uniform numbers in
        [0, 1) for the stochastic label and for the mistake. A row is (1, 0) or (0, 1), (0.5, 0.5) for a tie, (0, 0) for
        a skipped pair, which the caller drops.
        """
        g = first.sum(1), second.sum(1)
        skipped = False if self.skip is None else np.maximum(*g) <= self.mean + self.skip * self.spread
        tied = np.abs(g[0] - g[1]) < self.equal * self.spread
        chosen = (u[:, 0] < self._prefers(first, second)) ^ (u[:, 1] < self.error)
        weight = np.where(tied[:, None], 0.5, np.stack([chosen, ~chosen], 1))
        return np.where(np.reshape(skipped, (-1, 1)), 0, weight).astype(np.float32)

    def _prefers(self, first: Array, second: Array) -> Array:
        """Compute the probability (N,) that the first segment is preferred, before mistakes."""
        weights = self.memory ** np.arange(first.shape[1] - 1, -1, -1)
        if self.parts == 1:
            return self.preference_probability((first * weights).sum(1) - (second * weights).sum(1))
        thirds = np.array_split((first - second) * weights, 3, axis=1)
        return majority(*(self.preference_probability(third.sum(1)) for third in thirds))

    def preference_probability(self, margin: Array) -> Array:
        """Compute the probability (N,) that the first is preferred, before mistakes, given `margin` = H_a - H_b.

        With `parts` = 3 it is the probability in a third, for the margin in that third.
        """
        scale = self.temperature * self.spread / self.parts
        return 0.5 * (1 + np.tanh(0.5 * margin / scale)) if scale > 0 else 0.5 * (1 + np.sign(margin))


def majority(p: Array, q: Array, r: Array) -> Array:
    """Return the probability that at least two of three independent events occur."""
    return p * q + q * r + r * p - 2 * p * q * r


def make_teacher(name: TeacherName, **settings: float | None) -> Teacher:
    """Build the teacher of this name (`TEACHERS`); `settings` that are not None replace its defaults."""
    given = {field: value for field, value in settings.items() if value is not None}
    return Teacher(**{"temperature": 0.0, **TEACHERS[name], **given})
