"""The teacher that compares clips by what they truly paid: Bradley-Terry with a temperature, and mistakes."""

from __future__ import annotations

import dataclasses

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Prefers a to b with probability sigmoid((G_a - G_b) / (temperature * spread)); errs with probability `error`.

    G is the undiscounted true return of a clip and `spread` the standard deviation of G over the pool, so that a
    temperature means the same in every environment. Temperature 0 always prefers the better one.
    """

    temperature: float = 0.2
    error: float = 0.0
    spread: float = 1.0

    def judge(self, first: Array, second: Array, u: Array) -> Array:
        """Weights (N, 2) with which the first and the second clip of N pairs are held to be the better one.

        first, second (N, K): what each step truly paid, 0 after the end of an episode. u (N, 2): uniform numbers in
        [0, 1), by which it doubts and errs. A row is (1, 0) or (0, 1).
        """
        margin = first.sum(1) - second.sum(1)
        scale = self.temperature * self.spread
        p = 0.5 * (1 + np.tanh(0.5 * margin / scale)) if scale > 0 else 0.5 * (1 + np.sign(margin))
        chosen = (u[:, 0] < p) ^ (u[:, 1] < self.error)
        return np.stack([chosen, ~chosen], 1).astype(np.float32)
