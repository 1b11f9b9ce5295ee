"""Test the lines that a run shows in the terminal, and its time left."""

import numpy as np
import pytest

from aihf_control.methods import bc
from aihf_control.training.display import Display
from aihf_control.training.events import Evaluated, Finished, Phase, Tick
from aihf_control.training.pace import Pace
from aihf_control.training.result import Collector
from aihf_control.training.run import RunSpec


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("aihf_control.training.pace.time.monotonic", clock)
    return clock


def run_spec(**settings) -> RunSpec:
    return RunSpec("bc", bc.Config(), (0,), steps=1000, evaluations=2, eval_episodes=5, final_episodes=10, **settings)


def row(step):
    return {"seed": 0, "step": step, "return": 7.0}


def test_time_left_is_an_estimate_first_then_from_the_rate_and_the_evaluations(clock):
    pace = Pace(run_spec(), estimate=100.0)
    assert pace.left() == 100.0 and pace.doing() == "starting"
    clock.now = 10.0
    pace.observe(Phase((0,), "first evaluation", 0, 1000))
    assert pace.left() == 90.0 and pace.doing() == "first evaluation 0 of 1,000"
    clock.now = 14.0
    pace.observe(Evaluated(0, [row(0)]))
    for step, now in ((10, 15.0), (20, 16.0), (110, 25.0)):
        clock.now = now
        pace.observe(Tick((0,), step))
    assert pace.doing() == "training 110 of 1,000"
    # 10 seconds for the 100 steps since step 10; the evaluation at 500 has half the episodes of the last one
    assert pace.left() == pytest.approx(890 * 0.1 + 4 / 2 + 4)
    pace.observe(Phase((0,), "evaluation", 0, 1000))
    clock.now = 35.0
    pace.observe(Evaluated(500, [row(500)]))
    assert pace.left() == pytest.approx(500 * 10 / 490 + 4)  # nothing is left but the last evaluation
    pace.observe(Finished((0,), 1000, {}, None))
    assert pace.slowest.finished


def test_the_slowest_worker_is_shown():
    spec = RunSpec("bc", bc.Config(), (0, 1), steps=1000)
    pace = Pace(spec)
    pace.observe(Tick((0,), 500))
    pace.observe(Phase((1,), "cloning", 3, 5000))
    assert pace.doing() == "cloning 3 of 5,000" and pace.left() is None


def test_without_a_terminal_a_line_a_phase_and_an_evaluation_is_printed(dataset, capsys):
    spec = run_spec()
    display, collector = Display(spec), Collector(spec, dataset)
    events = [
        Phase((0,), "cloning", 0, 9),
        Phase((0,), "cloning", 9, 9),
        Evaluated(0, [row(0)]),
        Evaluated(500, [row(500)]),
    ]
    with display:
        for event in events:
            collector.add(event)
            display.show(event, collector)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "cloning (9)" and out[1].startswith("step 0  return 7") and out[2].startswith("step 500  return 7")
    assert np.isclose(display._share(collector), 0.5)
