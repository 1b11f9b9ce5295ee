"""The plan of what annotators are asked. This module imports no slow package, so that the page starts fast."""

from __future__ import annotations

import dataclasses
from typing import Literal

from aihf_control.core.errors import BadInput, at_least_one

SECONDS = 4.0  # a label takes, before there are answers
MAX_PAIRS = 100_000
Query = Literal["uniform", "disagreement", "entropy", "coverage"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Numbers of pairs, repeats and checks that every annotator is asked."""

    pairs: int = 200
    """Pairs that every annotator answers, besides repeats and gold questions; a skipped one is replaced."""
    query: Query = "uniform"
    """Selection of pairs: uniform, or in rounds by disagreement or mean entropy of a reward ensemble fitted to the
    answers so far, or by distance from earlier pairs."""
    clip: int = 0
    """Steps of a compared segment; 0 takes the length of the dataset's comparisons, or 50 if they are of whole
    trajectories."""
    repeats: float = 0.05
    """Questions that come again with swapped sides, as a share of the pairs."""
    gold: float = 0.05
    """Questions of which the answer is certain, as a share of the pairs."""
    shared: float = 0.1
    """Share of the pairs that all annotators are asked, if there are several."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self):
        at_least_one({"--pairs": self.pairs})
        if self.pairs > MAX_PAIRS:
            raise BadInput(f"--pairs must be at most {MAX_PAIRS}, got {self.pairs}")
        for name in ("repeats", "gold", "shared"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"--{name} must be from 0 to 1, got {getattr(self, name)}")
        for name in ("clip", "seed"):
            if getattr(self, name) < 0:
                raise BadInput(f"--{name} must be at least 0, got {getattr(self, name)}")

    @property
    def checks(self) -> float:
        """Return the number of repeats and gold questions per pair."""
        return self.repeats + self.gold

    @property
    def minutes(self) -> float:
        """Return how long an annotator needs, roughly."""
        return self.pairs * (1 + self.checks) * SECONDS / 60
