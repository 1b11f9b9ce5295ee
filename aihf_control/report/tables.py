"""The tables of a grid: rows of numbers with intervals, each row with the runs that it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.core.config import as_word
from aihf_control.core.statistics import (
    STAR_NOTE,
    Estimate,
    aggregate,
    estimate,
    format_count,
    improvement_estimate,
    iqm_of_all,
    mean_of_tasks,
    median_of_tasks,
    optimality_gap,
)
from aihf_control.report.load import ANSWERS, GridResults, Run, finite, numbers

Array = np.ndarray
Cell = str | int | float | Estimate | None
SCORE = "Score: 0 random actions, 1 the expert; of each run's last policy. A run that diverged counts as 0."
BOOTSTRAP = f"95 % bootstrap intervals. {STAR_NOTE}"


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells by column, and the keys of the runs that they come from."""

    cells: dict[str, Cell]
    runs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    name: str
    title: str
    caption: str
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """Of the fullest row, then what others have besides."""
        fullest_first = sorted(self.rows, key=lambda row: -len(row.cells))
        return list(dict.fromkeys(name for row in fullest_first for name in row.cells))


def tables_of(grid: GridResults) -> list[Table]:
    """Those that the experiment asks for and that have something to say."""
    made = {"scores": scores, "environments": environments, "improvement": improvement}
    tables = [made[name](grid) for name in grid.report.tables]
    return [table for table in tables if table.rows]


def scores(grid: GridResults) -> Table:
    """All environments together: a row a method, best first, and one of the demonstrations, for each setting."""
    rows = []
    for setting in grid.settings():
        ranked = sorted((_score_row(grid, method, setting) for method in grid.methods), key=_value, reverse=True)
        rows += [*_demonstrations(grid, setting), *ranked]
    n = len(grid.envs)
    over = f"over {n} environments" if n > 1 else f"on {grid.envs[0]}"
    caption = (
        f"{SCORE} IQM, mean, median (over environments, of means over runs), optimality gap {over}; late: IQM of the "
        f"mean of each run's last five evaluations. Above demonstrations: share of runs that return more than the "
        f"demonstrations they were shown. n runs for each environment. {BOOTSTRAP}"
    )
    return Table("scores", "Scores", caption, rows)


def _score_row(grid: GridResults, method: str, setting: dict[str, Any]) -> Row:
    runs, x, late = grid.of(method, setting), grid.scores(method, setting), grid.scores(method, setting, "late_score")
    cells: dict[str, Cell] = {**_dials(setting), "method": method}
    if x is None or late is None:
        return Row({**cells, "IQM": None, "missing": _missing(runs)}, _keys(runs))
    statistics = {"IQM": iqm_of_all, "mean": mean_of_tasks, "median": median_of_tasks, "optimality gap": optimality_gap}
    cells |= {name: aggregate(x, statistic, rng()) for name, statistic in statistics.items()}
    lanes = _lanes(grid, runs)
    cells |= {"late": aggregate(late, iqm_of_all, rng()), "above demonstrations": _mean(lanes, "above_demos")}
    cells |= {"n": len(x), "diverged": int(numbers(lanes, "diverged").sum())}
    return Row(cells | _budget(lanes), _keys(runs))


def _demonstrations(grid: GridResults, setting: dict[str, Any]) -> list[Row]:
    """What was shown in a setting, from the first method whose runs have all finished."""
    for method in grid.methods:
        if grid.scores(method, setting) is not None:
            runs = grid.of(method, setting)
            shown = _lanes(grid, runs)[["env", "seed", "demo_score"]].dropna()
            if len(shown):
                x = shown.pivot(index="seed", columns="env", values="demo_score").to_numpy()
                return [Row({**_dials(setting), "method": "(demonstrations)", "mean": float(x.mean())}, _keys(runs))]
    return []


def environments(grid: GridResults) -> Table:
    """Each environment by itself: a row a method, best first, for each setting."""
    rows = []
    for env in grid.envs:
        for setting in grid.settings():
            found = [_env_row(grid, env, method, setting) for method in grid.methods]
            rows += sorted(found, key=_value, reverse=True)
    told = "Labels right: the share of a run's labels that name the better clip. " if ANSWERS in grid.lanes else ""
    caption = (
        f"Each environment by itself, the IQM of n runs. {SCORE} Of the return, and of the reward's accuracy and rank "
        f"correlation on held-out data, runs that diverged are left out. {told}{BOOTSTRAP}"
    )
    return Table("environments", "Environments", caption, rows)


def _env_row(grid: GridResults, env: str, method: str, setting: dict[str, Any]) -> Row:
    runs, x = grid.of(method, setting, env), grid.scores(method, setting, env=env)
    cells: dict[str, Cell] = {"environment": env, **_dials(setting), "method": method}
    if x is None:
        return Row({**cells, "score": None, "missing": _missing(runs)}, _keys(runs))
    lanes = _lanes(grid, runs)
    cells |= {"score": aggregate(x, iqm_of_all, rng()), "return": _iqm(lanes, "return")}
    cells |= {"n": len(x), "diverged": int(numbers(lanes, "diverged").sum()), **_budget(lanes)}
    if ANSWERS in lanes:
        cells["labels right"] = _mean(lanes, ANSWERS)
    cells |= {"pair accuracy": _iqm(lanes, "pair_accuracy"), "rank correlation": _iqm(lanes, "rank_correlation")}
    return Row(cells, _keys(runs))


def improvement(grid: GridResults) -> Table:
    """Every other method against the baseline, for each setting."""
    rows, baseline = [], grid.report.baseline
    for setting in grid.settings() if baseline else []:
        assert baseline
        y = grid.scores(baseline, setting)
        for method in (m for m in grid.methods if m != baseline):
            x, runs = grid.scores(method, setting), grid.of(method, setting) + grid.of(baseline, setting)
            found = None if x is None or y is None else improvement_estimate(x, y, rng())
            cells: dict[str, Cell] = {**_dials(setting), "method": method, f"P(better than {baseline})": found}
            cells |= {"n": found.n} if found else {"missing": _missing(runs)}
            rows.append(Row(cells, _keys(runs)))
    caption = (
        f"Probability that a run of the method, drawn at random, scores above one of {baseline} in the same place; "
        f"mean over environments, ties half. {BOOTSTRAP}"
    )
    return Table("improvement", f"Probability of improvement over {baseline}", caption, rows)


def rng() -> np.random.Generator:
    """The same for every number, so that no number depends on which others are asked for."""
    return np.random.default_rng(0)


def _missing(runs: Sequence[Run]) -> str:
    return f"{sum(run.state != 'finished' for run in runs)} of {len(runs)} cells"


def _dials(setting: dict[str, Any]) -> dict[str, Cell]:
    return {label(name): as_word(value) for name, value in setting.items()}


def label(dial: str) -> str:
    """A dial's name as a person says it."""
    return dial.removeprefix("dataset.").replace("_", " ")


def _keys(runs: Sequence[Run]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.key for run in runs))


def _lanes(grid: GridResults, runs: Sequence[Run]) -> pd.DataFrame:
    return grid.lanes.loc[grid.lanes["cell"].isin(_keys(runs))]


def _budget(lanes: pd.DataFrame) -> dict[str, Cell]:
    """The most that a run was given."""
    return {name.replace("_", " "): int(numbers(lanes, name).max()) for name in ("env_steps", "labels")}


def _mean(lanes: pd.DataFrame, column: str) -> float | None:
    x = finite(lanes, column)
    return float(x.mean()) if len(x) else None


def _iqm(lanes: pd.DataFrame, column: str) -> Estimate | None:
    x = finite(lanes, column)
    return estimate(x) if len(x) else None


def _value(row: Row) -> float:
    """By what rows are ranked; those without a value come last."""
    value = row.cells.get("IQM", row.cells.get("score"))
    return value.value if isinstance(value, Estimate) else -np.inf


# ----------------------------------------------------------------------------------------------------- as text, as csv


def cell_text(row: Row, name: str) -> str:
    """A cell as a person reads it."""
    x = row.cells.get(name)
    if x is None:
        return "-"
    if name == "n":
        return format_count(int(x))  # type: ignore[arg-type]
    if isinstance(x, float):
        return f"{x:.2f}" if abs(x) < 10 else f"{x:.0f}"
    return f"{x:,}" if isinstance(x, int) else str(x)


def markdown(table: Table) -> str:
    head = [*table.columns, "runs"]
    lines = [f"## {table.title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table.rows:
        cells = [*(cell_text(row, name) for name in table.columns), " ".join(row.runs)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, "", table.caption, ""])


def latex(table: Table) -> str:
    """A booktabs table; the runs of each row stand behind it as a comment."""
    shown = pd.DataFrame([{name: cell_text(row, name) for name in table.columns} for row in table.rows])
    caption = escaped(table.caption)
    text = shown.to_latex(index=False, escape=True, caption=caption, label=f"tab:{table.name}", position="t")
    return text + "".join(f"% row {i}: runs {' '.join(row.runs)}\n" for i, row in enumerate(table.rows, 1))


def escaped(text: str) -> str:
    """Text for LaTeX."""
    return "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)


def csv(table: Table) -> str:
    """Numbers at full length; an estimate takes three columns."""
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        cells = [row.cells.get(name) for row in table.rows]
        columns[name] = [x.value if isinstance(x, Estimate) else x for x in cells]
        if any(isinstance(x, Estimate) for x in cells):
            for end in ("low", "high"):
                columns[f"{name} {end}"] = [getattr(x, end, None) for x in cells]
    columns["runs"] = [" ".join(row.runs) for row in table.rows]
    return pd.DataFrame(columns, dtype=object).to_csv(index=False, lineterminator="\n")
