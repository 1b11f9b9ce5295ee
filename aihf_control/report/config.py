"""Settings of a grid's report: the table [report] and the tables [[claim]] of an experiment file."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Contents of a grid's report."""

    baseline: str | None = None
    """Method that the others are compared with."""
    tables: tuple[str, ...] | None = None
    """Names of `tables.TABLES`; None is all of them."""
    figures: tuple[str, ...] | None = None
    """Names of `figures.FIGURES`; None is all of them."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A comparison of two methods of a grid that a paper predicts."""

    text: str = ""
    """The claim in one sentence."""
    paper: str = ""
    """arXiv number, or author and year."""
    better: str = ""
    """Name of the method that is claimed to be better."""
    than: str = ""
    """Name of the method that it is compared with."""
    kind: Literal["better", "as good", "not worse"] = "better"
    """`as good` only claims that the interval of `better` overlaps that of `than`, or lies above it; `not worse`, that
    the interval of the difference by seed lies above -`margin`."""
    margin: float = 0.05
    """Largest loss of a method that is `not worse`."""
    measure: Literal["score", "late_score", "worst_return", "pair_accuracy", "worst_pair_accuracy"] = "score"
    """Number of a run that is compared; a larger one is better."""
    where: dict = dataclasses.field(default_factory=dict)
    """Values of swept factors, by their names with or without `dataset.`, that select one setting of the grid."""
    pooled: bool = False
    """Whether `where` may select several settings, whose runs are judged together."""
    than_where: dict | None = None
    """The same for `than`, if it is compared in another setting."""
    control: dict | None = None
    """The same for the control, in which the gain must be smaller: for instance labels at random."""
    env: str | None = None
    """Environment; None is all of the grid together."""
