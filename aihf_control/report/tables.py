"""Tables of a grid: rows of numbers with intervals, each row with the runs that it comes from.

To add a table, write a function that returns it and add a line to TABLES.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from aihf_control.core.config import as_word, check_known
from aihf_control.core.statistics import (
    STAR_NOTE,
    Estimate,
    aggregate,
    estimate,
    improvement_estimate,
    iqm_of_all,
    mean_of_tasks,
    median_of_tasks,
    optimality_gap,
)
from aihf_control.report.claims import NOT_MEASURED, NOT_RUN, Judgement, count_missing, judge, where_text
from aihf_control.report.columns import BUDGET, OPTIONAL
from aihf_control.report.grid_results import EXCLUDED, FINISHED, GridResults, Run, Setting, finite, numbers, rng

Array = np.ndarray
Cell = str | int | float | Estimate | None
SCORE = "Score: 0 random actions, 1 the expert; of each run's last policy. A run that diverged counts as 0."
BOOTSTRAP = f"95 % bootstrap intervals. {STAR_NOTE}"
CLAIMS_CAPTION = (
    "A claim holds if P, the probability that a run of the first method is above one of the second, has an interval "
    "above 0.5, and if the gain is larger than in the control, for instance with labels at random. It does not hold "
    "if the interval is below 0.5, or if the gain in the control is as large. Otherwise it cannot be told. "
    "`as good` holds if the intervals of the two IQMs overlap or the first is above, which says little with few runs; "
    "`not worse` if the gain's interval is above -margin. "
    "Gain: IQM of the differences between runs of the same seed. A worst return is on the scale of the score. "
    f"{BOOTSTRAP}"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells by column, and the keys of the runs that they come from."""

    cells: dict[str, Cell]
    runs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with a title and a caption."""

    name: str
    title: str
    caption: str
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """Columns of the fullest row, then those that only other rows have."""
        fullest_first = sorted(self.rows, key=lambda row: -len(row.cells))
        return list(dict.fromkeys(name for row in fullest_first for name in row.cells))


def build_tables(grid: GridResults) -> list[Table]:
    """Build the tables that the experiment asks for; those without rows are left out.

    Raises BadInput for a name that is not in TABLES.
    """
    names = list(TABLES) if grid.report.tables is None else grid.report.tables
    check_known(names, list(TABLES), f"{grid.name}, report.tables")
    return [table for name in names if (table := TABLES[name](grid)).rows]


def build_scores(grid: GridResults) -> Table:
    """Build the table over all environments: for each setting a row per method, best first, and the demonstrations."""
    rows = []
    for setting in grid.settings:
        ranked = sorted((_score_row(grid, method, setting) for method in grid.methods), key=_rank, reverse=True)
        rows += [*_demonstrations(grid, setting), *ranked]
    n = len(grid.envs)
    over = f"over {n} environments" if n > 1 else f"on {grid.envs[0]}"
    caption = (
        f"{SCORE} IQM, mean, median (over environments, of means over runs), optimality gap {over}; late: IQM of the "
        f"mean of each run's last five evaluations. Above demonstrations: share of runs that return more than the "
        f"demonstrations they were shown. n runs for each environment. {BOOTSTRAP}"
    )
    return Table("scores", "Scores", caption, rows)


def _score_row(grid: GridResults, method: str, setting: Setting) -> Row:
    runs = grid.select(method, setting)
    x, late = grid.scores(method, setting), grid.scores(method, setting, "late_score")
    cells: dict[str, Cell] = {**_setting_cells(setting), "method": method}
    if x is None or late is None:
        return Row({**cells, "IQM": None, "missing": _missing(runs)}, keys_of(runs))
    statistics = {"IQM": iqm_of_all, "mean": mean_of_tasks, "median": median_of_tasks, "optimality gap": optimality_gap}
    cells |= {name: aggregate(x, statistic, rng()) for name, statistic in statistics.items()}
    lanes = grid.lanes_of(runs)
    cells |= {"late": aggregate(late, iqm_of_all, rng()), "above demonstrations": _mean(lanes, "above_demos")}
    cells |= {"n": len(x), "diverged": int(numbers(lanes, "diverged").sum())}
    return Row(cells | _budget(lanes), keys_of(runs))


def _demonstrations(grid: GridResults, setting: Setting) -> list[Row]:
    """Build the row of the demonstrations of a setting, from the first method whose runs have all finished."""
    for method in grid.methods:
        if grid.scores(method, setting) is not None:
            runs = grid.select(method, setting)
            shown = grid.lanes_of(runs)[["env", "seed", "demo_score"]].dropna()
            if len(shown):
                mean = float(shown.pivot(index="seed", columns="env", values="demo_score").to_numpy().mean())
                return [Row({**_setting_cells(setting), "method": "(demonstrations)", "mean": mean}, keys_of(runs))]
    return []


def build_environments(grid: GridResults) -> Table:
    """Build the table of each environment by itself: for each setting a row per method, best first."""
    rows = []
    for env in grid.envs:
        for setting in grid.settings:
            found = [
                _env_row(grid, env, method, setting) for method in grid.methods if grid.select(method, setting, env)
            ]
            rows += sorted(found, key=_rank, reverse=True)
    captions = "".join(f"{c.caption} " for c in OPTIONAL if c.caption and c.name in grid.lanes)
    caption = (
        f"Each environment by itself, the IQM of n runs. {SCORE} Of the return, and of the reward's accuracy and rank "
        f"correlation on held-out data, runs that diverged are left out. {captions}{BOOTSTRAP}"
    )
    return Table("environments", "Environments", caption, rows)


def _env_row(grid: GridResults, env: str, method: str, setting: Setting) -> Row:
    runs, x = grid.select(method, setting, env), grid.scores(method, setting, env=env)
    cells: dict[str, Cell] = {"environment": env, **_setting_cells(setting), "method": method}
    if x is None:
        return Row({**cells, "score": None, "missing": _missing(runs)}, keys_of(runs))
    lanes = grid.lanes_of(runs)
    cells |= {"score": aggregate(x, iqm_of_all, rng()), "return": _iqm(lanes, "return")}
    cells |= {"n": len(x), "diverged": int(numbers(lanes, "diverged").sum()), **_budget(lanes)}
    shown = [column for column in OPTIONAL if column.name in lanes]
    cells |= {column.header: _mean(lanes, column.name) for column in shown if column.statistic == "mean"}
    cells |= {column.header: _iqm(lanes, column.name) for column in shown if column.statistic == "iqm"}
    return Row(cells, keys_of(runs))


def build_improvement(grid: GridResults) -> Table:
    """Build the table of every other method against the baseline, for each setting."""
    rows, baseline = [], grid.report.baseline
    for setting in grid.settings if baseline else []:
        assert baseline
        y = grid.scores(baseline, setting)
        for method in (m for m in grid.methods if m != baseline):
            x, runs = grid.scores(method, setting), grid.select(method, setting) + grid.select(baseline, setting)
            found = None if x is None or y is None or x.shape[1] != y.shape[1] else improvement_estimate(x, y, rng())
            cells: dict[str, Cell] = {**_setting_cells(setting), "method": method, f"P(better than {baseline})": found}
            cells |= {"n": found.n} if found else {"missing": _missing(runs)}
            rows.append(Row(cells, keys_of(runs)))
    caption = (
        f"Probability that a run of the method, drawn at random, scores above one of {baseline} in the same place; "
        f"mean over environments, ties half. {BOOTSTRAP}"
    )
    return Table("improvement", f"Probability of improvement over {baseline}", caption, rows)


def build_claims(grid: GridResults) -> Table:
    """Build the table of the grid's claims: a row each with the verdict, also for those whose runs are missing."""
    found = [judge(grid.whole or grid, claim) for claim in grid.claims]
    return Table("claims", "Claims", CLAIMS_CAPTION, [Row(_claim_cells(one), keys_of(one.runs)) for one in found])


def _claim_cells(found: Judgement) -> dict[str, Cell]:
    claim = found.claim
    text: dict[str, Cell] = {"claim": claim.text, "paper": claim.paper}
    cells: dict[str, Cell] = {"better": claim.better, "than": claim.than, "kind": claim.kind}
    cells |= {"where": where_text(claim), "measure": claim.measure.replace("_", " "), "verdict": found.verdict}
    if found.verdict == NOT_MEASURED:
        return {**cells, "missing": f"{cells['measure']} in the logs", **text}
    if found.verdict == NOT_RUN or found.better is None:
        return {**cells, "missing": count_missing(found.runs), **text}
    cells |= {"P": found.chance, "value": found.better, "value of the other": found.than}
    return cells | {"gain": found.gain, "gain in the control": found.control, "n": found.better.n, **text}


TABLES = {
    "claims": build_claims,
    "scores": build_scores,
    "environments": build_environments,
    "improvement": build_improvement,
}


def keys_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the keys of some runs, each once."""
    return tuple(dict.fromkeys(run.key for run in runs))


def label(factor: str) -> str:
    """Return the name of a swept factor as tables print it."""
    return factor.removeprefix("dataset.").replace("_", " ")


def _missing(runs: Sequence[Run]) -> str:
    excluded = sum(run.state == EXCLUDED for run in runs)
    more = f", {excluded} excluded" if excluded else ""
    return f"{sum(run.state != FINISHED for run in runs)} of {len(runs)} cells{more}"


def _setting_cells(setting: Setting) -> dict[str, Cell]:
    return {label(name): as_word(value) for name, value in setting.items()}


def _budget(lanes: pd.DataFrame) -> dict[str, Cell]:
    """Return the largest number of environment steps and of labels of any run."""
    return {column.header: int(numbers(lanes, column.name).max()) for column in BUDGET}


def _mean(lanes: pd.DataFrame, column: str) -> float | None:
    x = finite(lanes, column)
    return float(x.mean()) if len(x) else None


def _iqm(lanes: pd.DataFrame, column: str) -> Estimate | None:
    x = finite(lanes, column)
    return estimate(x) if len(x) else None


def _rank(row: Row) -> float:
    """Return the value that rows are ranked by; rows without one come last."""
    value = row.cells.get("IQM", row.cells.get("score"))
    return value.value if isinstance(value, Estimate) else -np.inf
