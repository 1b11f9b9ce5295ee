"""Check of a method's data before a run, by its start with hardly any training."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from aihf_control import methods
from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.learning.task import Task
from aihf_control.training.run import RunSpec, task_of

BEFORE_THE_FIRST_YIELD = {
    "reward_updates": 1,
    "reward_warmup": 0,
    "clone": {"updates": 1},
    "tilt": {"updates": 1, "episodes": 1},
}
"""The least of all that methods do before their first yield."""


def check_asks(run_spec: RunSpec, dataset: Dataset, votes: float = math.inf) -> None:
    """Raise BadInput if the method asks nobody while it trains, or for more than so many `votes` on a pair."""
    asked, method = check_start(run_spec, dataset).votes_asked, run_spec.method
    if not asked:
        raise BadInput(
            f"{method} asks nobody while it trains; label its dataset before: python -m aihf_control.label DATASET"
        )
    if asked > votes:
        raise BadInput(f"{method} asks for {asked} votes on each pair, but a person answers it once; give --votes 1")


def check_start(run_spec: RunSpec, dataset: Dataset) -> Task:
    """Start the method, with hardly any training, so that it checks its data; return its task. Raises BadInput."""
    task = task_of(run_spec, dataset)
    next(methods.load(run_spec.method).train(task, _shorten_start(run_spec.cfg)))
    return task


def _shorten_start(cfg: Any) -> Any:
    """Return a method's config with hardly any training before its first yield."""
    given = {name: least for name, least in BEFORE_THE_FIRST_YIELD.items() if hasattr(cfg, name)}
    for name, least in given.items():
        if isinstance(least, dict):
            given[name] = dataclasses.replace(getattr(cfg, name), **least)
    try:
        return dataclasses.replace(cfg, **given)
    except BadInput:  # bc, whose updates are its steps
        return cfg
