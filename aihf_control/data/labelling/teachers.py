"""The teachers that compare clips by what they truly paid: B-Pref's six, in its order of operations.

Lee, Smith, Dragan, Abbeel: B-Pref, arXiv 2111.03026. They skip what shows nothing, call equal what pays alike, forget
what lies back, doubt, and err.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Array = np.ndarray

TEACHERS: dict[str, dict[str, float]] = {
    "oracle": {},
    "noisy": {"temperature": 0.2},
    "mistake": {"error": 0.1},
    "skip": {"skip": -0.5},
    "myopic": {"memory": 0.9},
    "equal": {"equal": 0.1},
}
"""B-Pref's teachers: in which dial of `Annotator` each differs from the oracle. The numbers are B-Pref's but for two.
Its temperature, 1 on raw returns, hardly ever doubts in one environment and always in another; and a tenth of the mean
return, below which it skips, skips nothing of a pool whose worst clips are better than that. Half a spread below the
mean skips a tenth of the pairs of a normal pool."""


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Compares two clips by their undiscounted true returns G_a and G_b; at temperature 0, without more, the oracle.

    In this order: a pair is skipped if neither G exceeds `mean` by more than `skip` spreads. It is a tie if G_a and
    G_b differ by less than `equal` spreads. Otherwise a is preferred with probability sigmoid((H_a - H_b) /
    (temperature * spread)), where H = sum of memory^(K - t) r_t over the steps t = 1 ... K of a clip, the later
    steps weighing more, is G for a memory of 1; temperature 0 prefers the greater H always, and tosses a coin where
    they are the same. Last, with probability `error`, the other one is named; a tie stays one.

    B-Pref's thresholds are in units of the acting policy's mean return, which may be 0 or less. Here they are in units
    of the pool: `mean` and `spread` are the mean and the standard deviation of G over its clips, so that a dial means
    the same in every environment. A teacher may be a mixture of several.
    """

    temperature: float = 0.2
    error: float = 0.0
    spread: float = 1.0
    skip: float | None = None
    equal: float = 0.0
    memory: float = 1.0
    mean: float = 0.0

    def judge(self, first: Array, second: Array, u: Array) -> Array:
        """Weights (N, 2) with which the first and the second clip of N pairs are held to be the better one.

        first, second (N, K): what each step truly paid, 0 after the end of an episode. u (N, 2): uniform numbers in
        [0, 1), by which it doubts and errs. A row is (1, 0) or (0, 1), (0.5, 0.5) for a tie, (0, 0) for a pair that
        was skipped and is to be dropped.
        """
        g = first.sum(1), second.sum(1)
        skipped = False if self.skip is None else np.maximum(*g) <= self.mean + self.skip * self.spread
        tied = np.abs(g[0] - g[1]) < self.equal * self.spread
        chosen = (u[:, 0] < self._prefers(first, second)) ^ (u[:, 1] < self.error)
        weight = np.where(tied[:, None], 0.5, np.stack([chosen, ~chosen], 1))
        return np.where(np.reshape(skipped, (-1, 1)), 0, weight).astype(np.float32)

    def _prefers(self, first: Array, second: Array) -> Array:
        """Probability (N,) that the first is preferred, before any mistake."""
        weights = self.memory ** np.arange(first.shape[1] - 1, -1, -1)
        return self.doubt((first * weights).sum(1) - (second * weights).sum(1))

    def doubt(self, margin: Array) -> Array:
        """Probability (N,) that the first is preferred, before any mistake, where its H is greater by `margin`."""
        scale = self.temperature * self.spread
        return 0.5 * (1 + np.tanh(0.5 * margin / scale)) if scale > 0 else 0.5 * (1 + np.sign(margin))


def teacher(name: str, **dials: float | None) -> Annotator:
    """The teacher of this name (`TEACHERS`), with those `dials` that are not None in place of its own."""
    given = {dial: value for dial, value in dials.items() if value is not None}
    return Annotator(**{"temperature": 0.0, **TEACHERS[name], **given})
