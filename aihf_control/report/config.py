"""Settings of a grid's report, the table [report] of an experiment file."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Contents of a grid's report."""

    baseline: str | None = None
    """Method that the others are compared with."""
    tables: tuple[str, ...] | None = None
    """Names of `tables.TABLES`; None is all of them."""
    figures: tuple[str, ...] | None = None
    """Names of `figures.FIGURES`; None is all of them."""
