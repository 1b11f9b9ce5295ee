"""The runs of a grid read back as tidy frames: a row a lane, and a row a lane and evaluation."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from aihf_control.core.config import as_word, rebuild
from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, read_json
from aihf_control.core.statistics import normalised

Array = np.ndarray
COLUMNS = ("seed", "step", "env_steps", "labels", "return", "score")
QUALITY = ("pair_accuracy", "rank_correlation")
ANSWERS = "labels_right"  # of runs from before it was written down there is none
LATE = 5  # evaluations in the mean of a run's last ones
KINDS = {"name": str, "title": str, "about": str, "report": dict, "cells": list, "file": str}
CELL_KINDS = {"key": str, "env": str, "name": str, "method": str, "seeds": int, "dials": dict}
SUMMARY_KINDS = {"seeds": list, "steps": int, "interrupted": bool, "dataset": str, "overvalued": list}
SUMMARY_KINDS |= {"random_return": float, "expert_return": float, "demo_returns": list}


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid, and what its run left, if it has finished."""

    key: str
    env: str
    name: str
    """Of the method in the experiment."""
    dials: dict[str, Any]
    n: int
    """Seeds."""
    state: str
    """finished, cut short, begun, or to do."""
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
    """The experiment's own text."""
    report: ReportConfig
    runs: list[Run]
    dials: list[str]
    """Names of what is swept."""
    lanes: pd.DataFrame
    """A row a lane that finished: cell, env, method, dials, seed, return, score, late_score, above_demos, ..."""
    evaluations: pd.DataFrame
    """A row a lane and evaluation: cell, env, method, dials, seed, step, env_steps, labels, return, score, ..."""

    @property
    def envs(self) -> list[str]:
        return list(dict.fromkeys(run.env for run in self.runs))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(run.name for run in self.runs))

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of dials, once."""
        return [dict(zip(self.dials, values, strict=True)) for values in dict.fromkeys(map(self._values, self.runs))]

    def of(self, method: str, setting: dict[str, Any], env: str | None = None) -> list[Run]:
        """The runs of a method in a setting."""
        return [r for r in self.runs if r.name == method and r.dials == setting and env in (None, r.env)]

    def scores(
        self, method: str, setting: dict[str, Any], column: str = "score", env: str | None = None
    ) -> Array | None:
        """A column as (runs, tasks), a run that diverged as 0; None unless every environment's run has finished."""
        runs = self.of(method, setting, env)
        if not runs or any(run.state != "finished" for run in runs):
            return None
        scores = np.stack([numbers(self.lanes.loc[self.lanes["cell"] == run.key], column) for run in runs], 1)
        return np.where(np.isfinite(scores), scores, 0.0)

    def _values(self, run: Run) -> tuple[Any, ...]:
        return tuple(run.dials[name] for name in self.dials)


def load_grid(folder: Path) -> GridResults:
    """A grid's folder, read and checked. Raises BadInput with the file that is wrong."""
    grid = checked(read_json(folder / "grid.json"), KINDS, folder / "grid.json")
    for cell in grid["cells"]:
        checked(cell, CELL_KINDS, folder / "grid.json")
    runs = [_run(folder, cell) for cell in grid["cells"]]
    if len({tuple(run.dials) for run in runs}) != 1:
        raise BadInput(f"{folder / 'grid.json'} is damaged: its cells do not have the same dials")
    done = [run for run in runs if run.state == "finished"]
    if not done:
        raise BadInput(f"no finished run in {folder}; run it with `python -m aihf_control.bench`")
    frames = [_evaluations(folder, run) for run in done]
    report = rebuild(ReportConfig, grid["report"], folder)
    about = {name: grid[name] for name in ("name", "title", "about", "file")}
    lanes = [_lanes(run, frame, folder / "cells" / run.key) for run, frame in zip(done, frames, strict=True)]
    lanes, every = (pd.concat(parts, ignore_index=True) for parts in (lanes, frames))
    return GridResults(
        folder, **about, report=report, runs=runs, dials=list(runs[0].dials), lanes=lanes, evaluations=every
    )


def checked(given: Any, kinds: dict[str, type], path: Path) -> dict[str, Any]:
    """The same, if it is a table with these fields of these types. Raises BadInput."""
    fields = given if isinstance(given, dict) else {}
    wrong = sorted(name for name, kind in kinds.items() if type(fields.get(name)) is not kind)
    if wrong:
        raise BadInput(f"{path} is damaged, or of another version: {', '.join(wrong)} missing or wrong")
    return fields


def _run(folder: Path, cell: dict[str, Any]) -> Run:
    dials = {name: tuple(x) if isinstance(x, list) else x for name, x in cell["dials"].items()}
    run = Run(cell["key"], cell["env"], cell["name"], dials, cell["seeds"], "to do")
    where = folder / "cells" / cell["key"]
    if not (where / "config.json").exists():
        return run
    config = checked(
        read_json(where / "config.json"), dict.fromkeys(("options", "cell", "dataset", "versions"), dict), where
    )
    if not (where / "summary.json").exists():
        return dataclasses.replace(run, state="begun", config=config)
    summary = checked(read_json(where / "summary.json"), SUMMARY_KINDS, where / "summary.json")
    if len(summary["seeds"]) != cell["seeds"] or len(summary["demo_returns"]) != cell["seeds"]:
        raise BadInput(f"{where / 'summary.json'} is not of this grid: it has {len(summary['seeds'])} seeds")
    state = "cut short" if summary["interrupted"] else "finished"
    return dataclasses.replace(run, state=state, config=config, summary=summary)


def read_log(path: Path) -> pd.DataFrame:
    """A run's log, a row a lane and evaluation, by seed and step. Raises BadInput where it is not one."""
    try:
        log = pd.DataFrame([json.loads(line) for line in read_bytes(path).splitlines()])
        columns = ["return", *(name for name in (*QUALITY, ANSWERS) if name in log)]
        log[columns] = log[columns].astype(float)
        counts = ["seed", "step", "env_steps", "labels"]
        log[counts] = log[counts].astype(int)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInput(f"{path} is not a run's log: {' '.join(str(e).split())[:100]}") from e
    return log.sort_values(["seed", "step"], kind="stable", ignore_index=True)


def _evaluations(folder: Path, run: Run) -> pd.DataFrame:
    log = read_log(folder / "cells" / run.key / "log.jsonl")
    assert run.summary
    score = normalised(numbers(log, "return"), run.summary["random_return"], run.summary["expert_return"])
    frame = log.assign(score=score).reindex(columns=[*COLUMNS, *QUALITY, *({ANSWERS} & {*log})])
    named = {"cell": run.key, "env": run.env, "method": run.name} | {k: as_word(x) for k, x in run.dials.items()}
    for i, (name, value) in enumerate(named.items()):
        frame.insert(i, name, [value] * len(frame))
    return frame


def _lanes(run: Run, evaluations: pd.DataFrame, where: Path) -> pd.DataFrame:
    """The last row of every lane, what its last evaluations average to, and whether it is above its demonstrations."""
    summary, rows = run.summary or {}, []
    for seed, shown in zip(summary["seeds"], summary["demo_returns"], strict=True):
        own = evaluations.loc[evaluations["seed"] == seed]
        if not len(own):
            raise BadInput(f"{where / 'log.jsonl'} has no line of seed {seed}")
        last, way = own.iloc[-1].to_dict(), numbers(own.loc[own["step"] > 0], "score")
        diverged, demo = not np.isfinite(last["return"]), np.nan if shown is None else float(shown)
        more = {"late_score": np.nan if diverged or not len(way) else way[-LATE:].mean(), "demo_return": demo}
        more |= {"demo_score": normalised(np.asarray(demo), summary["random_return"], summary["expert_return"])}
        above = np.nan if shown is None else float(last["return"] > demo)
        rows.append({**last, **more, "above_demos": above, "diverged": diverged})
    return pd.DataFrame(rows)


def numbers(frame: pd.DataFrame, column: str) -> Array:
    """A column's numbers; what is missing is not a number."""
    return np.asarray(frame[column], np.float64)


def finite(frame: pd.DataFrame, column: str) -> Array:
    """Those of a column that are numbers."""
    x = numbers(frame, column)
    return x[np.isfinite(x)]


Table = Literal["scores", "environments", "improvement"]


Figure = Literal["scores", "curves", "labels", "profiles", "dials", "reward"]


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What a report of the experiment holds."""

    baseline: str | None = None
    """The method that the others are held against."""
    tables: tuple[Table, ...] = typing.get_args(Table)
    figures: tuple[Figure, ...] = typing.get_args(Figure)
