"""The speed command: its processes, and the table of given measurements."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.speed import __main__ as speed
from aihf_control.speed import baselines, processes
from aihf_control.speed import table as speed_table

TURN = {"part": "comparison", "env": "Pendulum-v1", "width": 8, "seconds": 0.05, "device": "cpu"}


def test_the_table_is_medians_ratios_within_a_round_and_shares_of_the_products():
    def rows(learner, precision, updates, loops):
        what = {"part": "comparison", "env": "E", "learner": learner, "lanes": 1, "beside": 1, "device": "cpu"}
        what |= {"precision": precision, "memory": 9.0}
        return [
            {**what, "round": k, "updates": u, "loop": x} for k, (u, x) in enumerate(zip(updates, loops, strict=True))
        ]

    growth = [
        {
            "part": "growth",
            "env": "E",
            "learner": "ours",
            "lanes": n,
            "round": 0,
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
        + [row | {"beside": 2} for row in rows("sb3", "float32", [300], [100])]
        + [row | {"beside": 2, "lanes": 2} for row in rows("ours", "float32", [300], [300])]
        + [row | {"beside": 2, "lanes": 2} for row in rows(speed.PRODUCTS, "float32", [300], [None])]
        + rows("sb3", "float32", [100, 100, 100], [50, 50, 50])
        + rows(speed.PRODUCTS, "float32", [400, 400, 400], [None] * 3)
        + growth
        + rest
    )
    without = speed_table.format_table(frame)
    assert "Reward steps: not measured" in without and "A checkpoint of AIHF: not measured" in without
    frame = pd.concat([frame, pd.DataFrame(save)])
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
    text = speed_table.format_table(frame)
    assert "| E | ours | 1 | float32 | 200 | 100 | 2.00 [1.50, 3.00] | 2.00 [1.50, 4.00] | 50% | 50% | 9 |" in text
    assert "| E | ours | 2 | float32 | 300 | 300 | 1.00 [1.00, 1.00] | 3.00 [3.00, 3.00] | 100% | 0% | 9 |" in text
    assert "| E | products alone | 1 | float32 | 400 | - | 4.00 [4.00, 4.00] | - | - | - | 9 |" in text
    assert "3.0 times as fast" in text and "2.0 MiB at width 8" in text
    assert "takes 180 ms, which is 0.10% of the time" in text and "1.00 MiB a lane and 9 bytes" in text
    assert "takes 10.0 ms on clips of 50 and 20.0 ms on whole trajectories" in text and "takes 7.0 s" in text
    assert speed_table.draw_growth(frame)[:4] == b"\x89PNG"


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["rollout", "evaluate_policy", "checkpoint", "reward"])
def test_a_work_is_measured_once(learner):
    env = "Hopper-v4" if learner in ("checkpoint", "reward") else "Pendulum-v1"
    figures = processes.measure_once({**TURN, "env": env, "learner": learner, "lanes": 1})
    keys = {"checkpoint": ("save", "state", "row"), "reward": ("clips", "whole", "make")}
    assert all(figures[key] > 0 for key in ("memory", *keys.get(learner, ("steps",))))


@pytest.mark.slow
def test_a_group_takes_turns():
    group = [
        {**TURN, "learner": learner, "lanes": lanes, "precision": "float32"}
        for learner, lanes in ((speed.OURS, 2), (speed.BY_TORCH, 1), (speed.PRODUCTS, 2))
    ]
    rows = list(processes.measure_in_turns(group, ("updates", "loop"), 2, 0.05, None))
    assert [(row["learner"], row["round"]) for row in rows] == [(what["learner"], k) for k in (0, 1) for what in group]
    assert all(min(row["updates"], row["memory"]) > 0 for row in rows)
    assert [row.get("loop", 0) > 0 for row in rows] == [True, True, False] * 2


@pytest.mark.slow
def test_the_command_measures_an_environment_without_bundled_policies(tmp_path, capsys):
    words = ["--envs", "Pendulum-v1", "--lanes", "2", "--growth-lanes", "1", "2", "--growth-widths", "32"]
    few = ["--width", "32", "--rounds", "1", "--seconds", "0.05", "--device", "cpu"]
    assert speed.main([*words, *few, "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["growth.png", "made.json", "speed.csv", "table.md"]
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["versions"]["torch"] == torch.__version__ and made["options"]["rounds"] == 1
    text = (tmp_path / "table.md").read_text()
    assert "| Pendulum-v1 | ours | 2 | float32 |" in text and "Networks on: cpu." in text
    assert set(pd.read_csv(tmp_path / "speed.csv")["device"]) == {"cpu"}


@pytest.mark.parametrize(
    ("device", "seen", "only"), [("cuda:1", None, "1"), ("cuda:1", "4,7", "7"), ("cuda", None, None)]
)
@pytest.mark.parametrize("learner", ["sb3", speed.OURS])
def test_a_process_sees_the_one_gpu_that_it_is_to_use(learner, device, seen, only, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    words, env = processes.command_of({**TURN, "learner": learner, "lanes": 1, "device": device})
    assert env.get("CUDA_VISIBLE_DEVICES") == only and env["JAX_PLATFORMS"] == "cuda"
    assert (words[-1] if learner == "sb3" else json.loads(words[-1])["device"]) == "cuda"


@pytest.mark.slow
def test_the_message_of_a_learner_that_dies_is_reported():
    with pytest.raises(BadInput, match=r"measuring sb3 on Nowhere-v0 failed: .*Nowhere"):
        next(
            processes.measure_in_turns([{**TURN, "env": "Nowhere-v0", "learner": "sb3", "lanes": 1}], (), 1, 0.1, None)
        )


@pytest.mark.slow
def test_a_learner_that_is_killed_between_turns_is_reported():
    what = {**TURN, "learner": speed.PRODUCTS, "lanes": 1, "precision": "float32"}
    with processes.LearnerProcess(what, None) as learner:
        learner.process.kill()
        learner.process.wait()
        with pytest.raises(
            BadInput, match="measuring products alone on Pendulum-v1 failed: the process ended without a message"
        ):
            learner.measure("updates", 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "sb3"])
def test_a_baseline_answers(name, capsys, monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 300)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr("sys.stdin", ["updates 0.05", "loop 0.05", "updates 0.01"])
    baselines.main(name, "Pendulum-v1", "8", "cpu")
    said, *answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert said == {"tasks": ["updates", "loop"]}
    assert [sorted(figures) for figures in answers] == [
        ["memory", "updates"],
        ["loop", "memory"],
        ["memory", "updates"],
    ]
    assert all(min(figures.values()) > 0 for figures in answers)


@pytest.mark.slow
def test_the_plain_baseline_learns():
    """Its critics come to predict the value of a constant reward: the losses have the right signs."""
    torch.manual_seed(0)  # its networks are torch's own, and its batches numpy's
    np.random.seed(0)
    plain = baselines.PlainSAC("Pendulum-v1", 16)
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
        (["--sbx", "/nowhere/python"], "executable, got /nowhere/python"),
        (["--sbx", __file__], f"executable, got {__file__}"),
        (["--seconds", "0"], "--seconds must be above 0, got 0"),
        (["--envs", "Nowhere-v0"], "Nowhere-v0"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--lanes", "0"], "--lanes must be at least 1, got 0"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, said, capsys, tmp_path):
    assert speed.main([*words, "--out", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and not (tmp_path / "new").exists()
