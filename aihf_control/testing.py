"""Checks that a method keeps the laws that the benchmark relies on.

from aihf_control.testing import check_method

check_method(my_method, my_method.Config(steps=12), data)
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from aihf_control.core.files import replace_nonfinite
from aihf_control.data.dataset import Dataset
from aihf_control.methods import registry
from aihf_control.training.events import Evaluated, Finished, Paused
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes

NAME = "method under test"


def check_method(module: ModuleType, cfg: Any, dataset: Dataset, demos: int = 1, pairs: int = 20) -> None:
    """Run a method for `cfg.steps` iterations on two lanes, several times. Raises AssertionError for a law it breaks.

    The laws: a documented frozen `Config`; the same seed gives the same numbers; evaluations change nothing; a paused
    run resumes to the same bits; a lane's numbers do not depend on the lanes beside it. Give a `cfg` with small
    networks and at least 4 steps: the method runs six times.
    """
    _check_form(module)
    with registry.register_temporarily(NAME, module):
        spec = RunSpec(NAME, cfg, (0, 1), demos, pairs, cfg.steps, 1, 1, 1)
        rows, weights = _outcome(spec, dataset)
        again = _outcome(spec, dataset)
        assert (rows, _same(weights, again[1])) == (again[0], True), "the same seed does not give the same numbers"
        often = _outcome(dataclasses.replace(spec, evaluations=2), dataset)
        assert _same(weights, often[1]), "evaluating the policy changes training"
        with tempfile.TemporaryDirectory() as folder:
            place = CheckpointPlace(Path(folder))
            *_, last = train_lanes(spec, dataset, pause=After(cfg.steps // 2), place=place)
            assert isinstance(last, Paused), "the method ends before its last iteration"
            resumed = _outcome(spec, dataset, place)
        assert (rows, _same(weights, resumed[1])) == (resumed[0], True), "a resumed run does not give the same bits"
        alone = _outcome(dataclasses.replace(spec, seeds=(1,)), dataset)
        close = all(np.allclose(weights[name][1:], w, rtol=1e-3, atol=1e-4) for name, w in alone[1].items())
        assert close, "a lane's numbers depend on the lanes beside it"


def _check_form(module: ModuleType) -> None:
    assert module.__doc__, f"{module.__name__} has no docstring"
    assert dataclasses.is_dataclass(module.Config), f"{module.__name__}.Config is not a dataclass"
    assert vars(module.Config)["__dataclass_params__"].frozen, f"{module.__name__}.Config is not frozen"
    fields = {f.name for f in dataclasses.fields(module.Config)}
    assert "steps" in fields, f"{module.__name__}.Config has no field `steps`"


def _outcome(
    spec: RunSpec, dataset: Dataset, place: CheckpointPlace | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the log and the weights of policy and reward."""
    events = list(train_lanes(spec, dataset, place=place))
    rows = [row for event in events if isinstance(event, Evaluated) for row in event.rows]
    (done,) = (event for event in events if isinstance(event, Finished))
    tensors = {
        **done.policy,
        **{f"reward {name}": t for name, t in (done.reward.tensors if done.reward else {}).items()},
    }
    return replace_nonfinite(rows), {name: np.asarray(t) for name, t in tensors.items()}


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


class After:
    """An event that is set once it was asked about n times."""

    def __init__(self, n: int):
        self.left = n

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0
