"""The speed command: what a turn measures, and the table from given measurements."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from aihf_control import rivals, speed

TURN = {"part": "comparison", "env": "Pendulum-v1", "round": 0, "width": 8, "seconds": 0.05}


def test_the_table_is_medians_ratios_within_a_round_and_shares_of_the_floor():
    def rows(learner, precision, updates, loops):
        what = {"part": "comparison", "env": "E", "learner": learner, "lanes": 1, "precision": precision, "memory": 9.0}
        return [
            {**what, "round": k, "updates": u, "loop": x} for k, (u, x) in enumerate(zip(updates, loops, strict=True))
        ]

    growth = [
        {
            "part": "growth",
            "env": "E",
            "learner": "ours",
            "lanes": n,
            "width": 8,
            "updates": 10.0 * n,
            "memory": 100 + 2 * n,
        }
        for n in (1, 5)
    ]
    rest = [
        {"part": "rest", "env": "E", "learner": name, "round": 0, "steps": s}
        for name, s in (("rollout", 60.0), ("evaluate_policy", 20.0))
    ]
    save = [
        {
            "part": "rest",
            "env": "E",
            "learner": "checkpoint",
            "round": 0,
            "lanes": 5,
            "save": 0.18,
            "state": 5,
            "row": 9,
        }
    ]
    frame = pd.DataFrame(
        rows("ours", "float32", [200, 100, 400], [100, 50, 300])
        + rows("sb3", "float32", [100, 100, 100], [50, 50, 50])
        + rows(speed.FLOOR, "float32", [400, 400, 400], [None] * 3)
        + growth
        + rest
        + save
    )
    assert "Reward steps: not measured" in speed.table(frame)
    reward = {
        "part": "rest",
        "env": "E",
        "learner": "reward",
        "round": 0,
        "lanes": 5,
        "clips": 100,
        "whole": 50,
        "make": 7,
    }
    frame = pd.concat([frame, pd.DataFrame([reward])])
    text = speed.table(frame)
    assert "| E | ours | 1 | float32 | 200 | 100 | 2.00 [1.00, 4.00] | 2.00 [1.00, 6.00] | 50% | 50% | 9 |" in text
    assert "| E | products alone | 1 | float32 | 400 | - | 4.00 [4.00, 4.00] | - | - | - | 9 |" in text
    assert "3.0 times as fast" in text and "2.0 MiB at width 8" in text
    assert "takes 180 ms, which is 0.10% of the time" in text and "1.00 MiB a lane and 9 bytes" in text
    assert "takes 10.0 ms on clips of 50 and 20.0 ms on whole trajectories" in text and "takes 7.0 s" in text
    assert speed.figure(frame)[:4] == b"\x89PNG"


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner", ["ours", speed.BY_TORCH, speed.FLOOR, "rollout", "evaluate_policy", "checkpoint", "reward"]
)
def test_a_turn_measures(learner):
    lanes = 2 if learner == "ours" else 1
    env = "Hopper-v4" if learner in ("checkpoint", "reward") else "Pendulum-v1"
    what = {**TURN, "env": env, "learner": learner, "lanes": lanes, "precision": "float32"}
    figures = speed._turn(what, speed.Options(seconds=0.05))
    keys = {name: ("updates", "loop") for name in (speed.OURS, speed.BY_TORCH)} | {
        speed.FLOOR: ("updates",),
        "checkpoint": ("save", "state", "row"),
    }
    keys["reward"] = ("clips", "whole", "make")
    assert all(figures[key] > 0 for key in ("memory", *keys.get(learner, ("steps",))))
    assert ("loop" in figures) == (learner in (speed.OURS, speed.BY_TORCH))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "sb3"])
def test_a_rival_is_measured(name, capsys, monkeypatch):
    monkeypatch.setattr(rivals, "STEPS", 300)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    rivals.main(name, "Pendulum-v1", "8", "0.05")
    figures = json.loads(capsys.readouterr().out)
    assert min(figures[key] for key in ("updates", "loop", "memory")) > 0


def test_the_plain_rival_learns():
    """Its critics come to predict what a constant reward is worth: the losses have the right signs."""
    torch.manual_seed(0)  # its networks are torch's own, and its batches numpy's
    np.random.seed(0)
    plain = rivals.Plain("Pendulum-v1", 16)
    plain.replay[3][:] = 1.0
    plain.replay[4][:] = 1.0
    for _ in range(800):
        plain.update()
    obs, act = (plain.torch.as_tensor(column[:64]) for column in plain.replay[:2])
    q = plain.q1(plain.torch.cat([obs, act], -1))
    assert (q - 1).abs().mean() < 0.3


@pytest.mark.parametrize(
    "words, said",
    [
        (["--sbx", "/nowhere/python"], "--sbx /nowhere/python"),
        (["--envs", "Nowhere-v0"], "Nowhere-v0"),
        (["--rounds", "0"], "--rounds 0"),
        (["--lanes", "0"], "--lanes 0"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, said, capsys, tmp_path):
    assert speed.main([*words, "--out", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and not (tmp_path / "new").exists()
