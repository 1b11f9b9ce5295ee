"""Columns of log.jsonl that reports read: one definition for csv files, tables and `compare`.

To report another column of the log, add one line to COLUMNS.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class LogColumn:
    """A column of log.jsonl."""

    name: str
    """Key in log.jsonl, header in runs.csv and evaluations.csv."""
    kind: Literal["count", "number"]
    """A count is a whole number from 0 up; a number may be null, which is read as NaN."""
    required: bool = True
    """Whether every log must have it. Others appear in csv files and tables if at least one run has them."""
    statistic: Literal["max", "mean", "iqm"] | None = None
    """Statistic over runs that tables and `compare` show; None shows nothing."""
    caption: str = ""
    """Sentence about it below the table of environments."""

    @property
    def header(self) -> str:
        """Header in tables."""
        return self.name.replace("_", " ")


COLUMNS = (
    LogColumn("seed", "count"),
    LogColumn("step", "count"),
    LogColumn("env_steps", "count", statistic="max"),
    LogColumn("labels", "count", statistic="max"),
    LogColumn("return", "number"),
    LogColumn("pair_accuracy", "number", required=False, statistic="iqm"),
    LogColumn("rank_correlation", "number", required=False, statistic="iqm"),
    LogColumn(
        "worst_return",
        "number",
        required=False,
        statistic="iqm",
        caption="Worst return: the mean return of the group of dynamics in which it is lowest.",
    ),
    LogColumn(
        "worst_pair_accuracy",
        "number",
        required=False,
        statistic="iqm",
        caption="Worst pair accuracy: that of the held-out comparisons of the group in which it is lowest.",
    ),
    LogColumn(
        "labels_right",
        "number",
        required=False,
        statistic="mean",
        caption="Labels right: the share of a run's labels that name the better segment (clip).",
    ),
)
OPTIONAL = tuple(column for column in COLUMNS if not column.required)
BUDGET = tuple(column for column in COLUMNS if column.statistic == "max")
