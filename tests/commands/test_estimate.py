"""Estimates of how long a run takes."""

import json

import pytest

from aihf_control import methods
from aihf_control.environments.gym import spec_of
from aihf_control.methods import aihf
from aihf_control.training import estimate as module
from aihf_control.training.estimate import TIMINGS, Expected, estimate, shorten
from aihf_control.training.plan import format_expected
from aihf_control.training.run import RunSpec
from tests.helpers import tiny


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "_seconds_of_a_start", lambda: 2.0)


def test_a_short_run_has_a_part_of_every_count():
    short = shorten(aihf.Config(), 100)
    assert (short.steps, short.warmup, short.reward_warmup, short.sac.hold) == (150, 10, 10, 40)
    assert (short.clone.updates, short.tilt.updates, short.sac.hidden, short.reward_every) == (50, 10, (128, 128), 10)
    assert shorten(methods.load("bc").Config(), 100).steps == 50


@pytest.mark.parametrize("method", ["aihf", "bc", "oaif"])
def test_a_run_is_timed_once_and_kept(method, dataset):
    cfg, spec, asked = tiny(method), spec_of("Hopper-v4"), []

    def data():
        asked.append(method)
        return dataset

    run_spec = RunSpec(method, cfg, (0, 1), pairs=20, steps=cfg.steps, eval_episodes=1, final_episodes=1)
    assert estimate(run_spec, spec, 2, data, known=True) is None and not asked
    first = estimate(run_spec, spec, 2, data)
    assert first and first.start == 4.0 and first.training > 0 and first.evaluations > 0
    assert (first.first > 0) == (method != "bc")  # whose clone is its training
    assert estimate(run_spec, spec, 2, data, known=True) == first and len(asked) == 1


def test_damaged_timings_are_measured_again(dataset):
    spec, cfg = spec_of("Hopper-v4"), tiny("bc")
    run_spec = RunSpec("bc", cfg, (0,), pairs=20, steps=cfg.steps)
    estimate(run_spec, spec, 1, lambda: dataset)
    path = module.cache_folder() / TIMINGS
    for damaged in ("{", json.dumps({key: {"start": "x"} for key in json.loads(path.read_text())})):
        path.write_text(damaged)
        assert estimate(run_spec, spec, 1, lambda: dataset, known=True) is None


def test_the_plan_tells_the_present_load(monkeypatch):
    expected = Expected(start=5.0, first=55.0, training=120.0, evaluations=60.0)
    monkeypatch.setattr("aihf_control.training.plan.load_factor", lambda workers: 1.0)
    assert format_expected(expected, 2) == "4 min: 60 s before training, 2 min of training, 60 s of evaluations"
    monkeypatch.setattr("aihf_control.training.plan.load_factor", lambda workers: 3.0)
    assert format_expected(expected, 2).endswith("at the present load of this machine about 12 min")
