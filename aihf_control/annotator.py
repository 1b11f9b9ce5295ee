"""The teacher that compares clips by their true return: Bradley-Terry with a temperature, and mistakes."""

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

    def prefers_first(self, gain_a: Array, gain_b: Array, rng: np.random.Generator) -> Array:
        """(N,) booleans from the true returns of N pairs."""
        margin = np.asarray(gain_a) - np.asarray(gain_b)
        scale = self.temperature * self.spread
        p = 0.5 * (1 + np.tanh(0.5 * margin / scale)) if scale > 0 else 0.5 * (1 + np.sign(margin))
        first = rng.random(margin.shape) < p
        return first ^ (rng.random(margin.shape) < self.error)
