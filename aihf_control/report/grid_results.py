"""A grid and its runs, as tables and figures read them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aihf_control.report.config import Claim, ReportConfig

Array = np.ndarray
Setting = dict[str, Any]  # a value of every swept factor
FINISHED, CUT_SHORT, BEGUN, TO_DO, EXCLUDED = "finished", "cut short", "begun", "to do", "excluded"


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid and, if it has finished, the files of its run."""

    key: str
    env: str
    name: str
    """Name of the method in the experiment."""
    swept: Setting
    """Value of every swept factor."""
    n: int
    """Number of seeds."""
    state: str
    """finished, cut short, begun, to do or excluded."""
    reason: str = ""
    """Why it is excluded."""
    code: str | None = None
    """Hash of the package's code when the bench last ran the grid; None if grid.json has none."""
    config: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class GridResults:
    """A grid and its runs."""

    folder: Path
    name: str
    title: str
    about: str
    file: str
    """Text of the experiment file."""
    report: ReportConfig
    runs: list[Run]
    swept: list[str]
    """Names of the swept factors."""
    lanes: pd.DataFrame
    """A row per lane of a finished run: cell, env, method, swept factors, seed, return, score, late_score, ..."""
    evaluations: pd.DataFrame
    """A row per lane and evaluation: cell, env, method, swept factors, seed, step, env_steps, return, score, ..."""
    claims: tuple[Claim, ...] = ()
    whole: GridResults | None = None
    """The grid with all its runs, if this is one `with_results`."""

    @functools.cached_property
    def envs(self) -> list[str]:
        return list(dict.fromkeys(run.env for run in self.runs))

    @functools.cached_property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run.name for run in self.runs))

    @functools.cached_property
    def settings(self) -> list[Setting]:
        """Every combination of values of the swept factors, once."""
        values = dict.fromkeys(self.values_of(run.swept) for run in self.runs)
        return [dict(zip(self.swept, x, strict=True)) for x in values]

    def with_results(self) -> GridResults:
        """Return the grid without the environments, settings and methods that have no finished run."""
        done = [run for run in self.runs if run.state == FINISHED]
        axes = [
            {get(run) for run in done} for get in (lambda r: r.env, lambda r: r.name, lambda r: self.values_of(r.swept))
        ]
        return dataclasses.replace(
            self,
            runs=[
                run
                for run in self.runs
                if run.env in axes[0] and run.name in axes[1] and self.values_of(run.swept) in axes[2]
            ],
            whole=self.whole or self,
        )

    def values_of(self, setting: Setting) -> tuple[Any, ...]:
        """Return a setting's values in the order of the swept factors."""
        return tuple(setting[name] for name in self.swept)

    def select(self, method: str, setting: Setting, env: str | None = None) -> list[Run]:
        """Return the runs of a method in a setting, of one environment or of all."""
        return self._runs_by_place.get((method, self.values_of(setting), env), [])

    def scores(self, method: str, setting: Setting, column: str = "score", env: str | None = None) -> Array | None:
        """Return a column as (lanes, environments), 0 for lanes that diverged; None unless all runs have finished."""
        runs = self.select(method, setting, env)
        if not runs or any(run.state != FINISHED for run in runs):
            return None
        scores = np.stack([numbers(self._lanes_by_cell[run.key], column) for run in runs], 1)
        return np.where(np.isfinite(scores), scores, 0.0)

    def lanes_of(self, runs: Iterable[Run]) -> pd.DataFrame:
        """Return the rows of `lanes` of some runs; runs that have not finished have none."""
        frames = [self._lanes_by_cell[run.key] for run in runs if run.key in self._lanes_by_cell]
        return frames[0] if len(frames) == 1 else pd.concat(frames) if frames else self.lanes.iloc[:0]

    def evaluations_of(self, run: Run) -> pd.DataFrame | None:
        """Return the rows of `evaluations` of a run; None if it has not finished."""
        return self._evaluations_by_cell.get(run.key)

    @functools.cached_property
    def _runs_by_place(self) -> dict[tuple[str, tuple[Any, ...], str | None], list[Run]]:
        places: dict[tuple[str, tuple[Any, ...], str | None], list[Run]] = {}
        for run in self.runs:
            for env in (run.env, None):
                places.setdefault((run.name, self.values_of(run.swept), env), []).append(run)
        return places

    @functools.cached_property
    def _lanes_by_cell(self) -> dict[Any, pd.DataFrame]:
        return dict(list(self.lanes.groupby("cell", sort=False)))

    @functools.cached_property
    def _evaluations_by_cell(self) -> dict[Any, pd.DataFrame]:
        return dict(list(self.evaluations.groupby("cell", sort=False)))


def rng() -> np.random.Generator:
    """Return a generator with the same state for every number, so that no number depends on which others are shown."""
    return np.random.default_rng(0)


def numbers(frame: pd.DataFrame, column: str) -> Array:
    """Return a column as floats, NaN where it is missing."""
    return np.asarray(frame[column], np.float64)


def finite(frame: pd.DataFrame, column: str) -> Array:
    """Return the finite numbers of a column."""
    x = numbers(frame, column)
    return x[np.isfinite(x)]
