"""SAC on the true reward, its snapshots, and the yardstick."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from aihf_control.core.errors import BadInput
from aihf_control.core.files import lock
from aihf_control.core.provenance import versions
from aihf_control.environments.cards import Card
from aihf_control.environments.gym import spec_of
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.experts.crossq import CrossQConfig
from aihf_control.experts.session import TrainingSession
from aihf_control.experts.snapshots import Snapshot, Snapshots
from aihf_control.experts.true_reward import TrueRewardConfig, TrueRewardTrainer, _Sampler, learn
from aihf_control.learning.sac import SACConfig
from aihf_control.models.sb3 import read_zip
from aihf_control.yardstick import __main__ as yardstick
from aihf_control.yardstick import learners
from aihf_control.yardstick import table as yardstick_table

TINY = TrueRewardConfig(updates=30, envs=2, warmup=10, batch=16, sac=SACConfig(hidden=(8, 8)))
FLAGS = ["--updates", "30", "--envs", "2", "--warmup", "10", "--batch", "16", "--sac.hidden", "8", "8"]
FLAGS += ["--every", "10", "--episodes", "1", "--seeds", "2"]


def test_the_reward_of_each_transition_is_stored():
    """Pendulum's reward is -(angle^2 + 0.1 speed^2 + 0.001 torque^2), a function of its observation."""
    spec = spec_of("Pendulum-v1")
    for _, sac in learn(spec, (0, 1), dataclasses.replace(TINY, updates=1)):
        sampler = _Sampler(spec, sac_dims(spec), TINY)
        for _ in range(12):
            sampler.step(sac.policy, random=False)
    batch = sampler.buffer.sample(64)
    angle, speed = torch.atan2(batch.obs[..., 1], batch.obs[..., 0]), batch.obs[..., 2]
    expected = -(angle.square() + 0.1 * speed.square() + 0.001 * (2 * batch.act[..., 0]).square())
    torch.testing.assert_close(sampler.rewards.gather(1, batch.index), expected, atol=1e-3, rtol=1e-3)


def sac_dims(spec):
    from aihf_control.models.lanes import Dims

    return Dims((0, 1), spec.n_obs, spec.n_act)


def test_the_same_seeds_learn_the_same():
    weights = [list(learn(spec_of("Pendulum-v1"), (3,), TINY))[-1][1].policy.mean.weight for _ in range(2)]
    assert torch.equal(*weights)


SHARES = {"medium": 0.6, "weak": 0.3}
UNIT = np.array([-1.0, 1.0])  # mean 0, standard deviation 1


def test_the_levels_are_the_best_and_those_nearest_to_their_shares():
    snapshots = Snapshots(spec_of("Pendulum-v1"), (0,))
    values = [100.0, 310.0, 590.0, 800.0, 1000.0, 990.0]
    snapshots.entries = [Snapshot(0, i, i, v, 0.0) for i, v in enumerate(values)]  # type: ignore[arg-type]
    true = {1: 320.0, 2: 900.0, 3: 620.0, 5: 1000.0}  # 2 was medium by its first estimate, but is better
    levels = snapshots.select_levels(SHARES, 0.0, lambda policy: np.full(3, true.get(policy, 10.0)))
    assert [(levels[name].step, levels[name].mean) for name in levels] == [(5, 1000), (3, 620), (1, 320)]


def test_a_level_is_steady_and_one_of_its_own():
    """Shares count from random actions, at -100: the targets are 560 and 230."""
    snapshots = Snapshots(spec_of("Pendulum-v1"), (0,))
    played = [(1000, 0), (1100, 300), (560, 200), (600, 10), (510, 0), (505, 0)]
    snapshots.entries = [Snapshot(0, i, i, m, s) for i, (m, s) in enumerate(played)]  # type: ignore[arg-type]
    levels = snapshots.select_levels(
        SHARES, -100.0, lambda policy: np.array(played[policy][0]) + UNIT * played[policy][1]
    )
    assert {name: s.step for name, s in levels.items()} == {"expert": 0, "medium": 3}  # 505 is too near to 600


@pytest.mark.slow
def test_training_leaves_graded_policies_a_card_and_its_evaluations(tmp_path):
    assert experts_main(["train", "--env", "Pendulum-v1", "--out", str(tmp_path), *FLAGS]) == 0
    names = {f.name for f in tmp_path.iterdir()}
    assert {"expert.zip", "card.toml", "training.csv"} <= names
    assert read_zip(tmp_path / "expert.zip", spec_of("Pendulum-v1")).n_obs == 3
    frame = pd.read_csv(tmp_path / "training.csv")
    assert set(frame["step"]) == {10, 20, 30} and set(frame["actor"]) == {"raw", "average"}


@pytest.mark.slow
def test_a_training_that_is_paused_resumes_to_the_same_policies(tmp_path):
    """SIGTERM, as a job in the background gets it; then the same command, beside one that was never interrupted."""
    words = ["train", "--env", "Pendulum-v1", *FLAGS, "--updates", "200"]
    command = [sys.executable, "-u", "-m", "aihf_control.experts", *words, "--out", str(tmp_path / "new")]
    deaf = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # as a shell starts them
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=deaf) as training:
        assert training.stdout
        for line in training.stdout:
            if line.startswith("update 20 "):
                training.terminate()
                break
        message = training.stdout.read()
    assert training.returncode == 143 and "Resume with the same command." in message
    assert {f.name for f in (tmp_path / "new").iterdir()} == {"checkpoint"}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Resuming at update" in again.stdout and "update 10 " not in again.stdout
    assert experts_main([*words, "--out", str(tmp_path / "whole")]) == 0
    names = {f.name for f in (tmp_path / "whole").iterdir()}
    assert names == {f.name for f in (tmp_path / "new").iterdir()} and "checkpoint" not in names
    for name in ("card.toml", "training.csv"):  # zips know when they were written
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("learner", ["sac", "crossq"])
def test_a_training_resumes_to_the_same_bits(learner, tmp_path):
    """The replay buffer has wrapped around: 48 steps a lane in 40 rows."""
    small = CrossQConfig(hidden=(8, 8), actor=(8, 8))
    cfg = dataclasses.replace(TINY, capacity=40, warmup=15, learner=learner, crossq=small)
    spec, ends = spec_of("Pendulum-v1"), []
    for stops in ((30,), (24, 30)):
        for i, stop in enumerate(stops):
            trainer = TrueRewardTrainer(spec, (0, 1), dataclasses.replace(cfg, updates=stop))
            snapshots = Snapshots(spec, (0, 1), 10, 1)
            session = TrainingSession(trainer, snapshots, tmp_path / str(len(stops)), {"a": 1}, 1.0)
            assert session.restore(print) == (stops[i - 1] if i else 0)
            for k, learner in trainer.learn():
                if k % 10 == 0:
                    snapshots.evaluate(k, learner)
            session.save(now=True)
            session.lock.close()
        ends.append((trainer.learner.state_dict(), snapshots, trainer.sampler))
    (whole, snapshots, sampler), (halves, others, sampled) = ends
    for part in ("policy", "average", "q"):
        assert all(torch.equal(t, halves[part][name]) for name, t in whole[part].items()), part
    assert torch.equal(whole["log_alpha"], halves["log_alpha"]) and torch.equal(sampler.rewards, sampled.rewards)
    assert torch.equal(sampler.buffer.data, sampled.buffer.data) and snapshots.rows == others.rows
    assert [s.mean for s in snapshots.entries] == [s.mean for s in others.entries]


def test_a_folder_with_another_training_is_refused(tmp_path, capsys):
    spec = spec_of("Pendulum-v1")

    def begin(**settings) -> TrainingSession:
        trainer = TrueRewardTrainer(spec, (0,), TINY)
        return TrainingSession(trainer, Snapshots(spec, (0,)), tmp_path / "new", settings, 1.0)

    first = begin(every=10, updates=30)
    with pytest.raises(BadInput, match="every was 10, not 20"):
        begin(every=20, updates=30)
    with pytest.raises(BadInput, match="in use by a running process"):
        begin(every=10, updates=30)
    first.lock.close()
    begin(every=10, updates=60).close()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flag", ["--batch", "--capacity", "--envs"])
@pytest.mark.parametrize("n", ["-3", "0"])
def test_a_size_below_one_is_refused_in_one_line(flag, n, tmp_path, capsys):
    assert experts_main(["train", "--env", "Pendulum-v1", "--out", str(tmp_path / "x"), flag, n]) == 2
    assert capsys.readouterr().err == f"error: {flag} must be at least 1, got {n}\n" and not (tmp_path / "x").exists()


@pytest.mark.parametrize("flag", ["--sac.hidden", "--crossq.hidden", "--crossq.actor"])
@pytest.mark.parametrize(("widths", "named"), [(["8", "-3"], "8 -3"), (["0"], "0"), ([], "none")])
def test_widths_below_one_are_refused_in_one_line(flag, widths, named, tmp_path, capsys):
    assert experts_main(["train", "--env", "Pendulum-v1", "--out", str(tmp_path / "x"), flag, *widths]) == 2
    assert capsys.readouterr().err == f"error: {flag} must be one or more widths of at least 1, got {named}\n"


def test_a_training_without_an_evaluation_saves_nothing(tmp_path, capsys):
    words = ["train", "--env", "Pendulum-v1", "--out", str(tmp_path / "new"), *FLAGS, "--every", "1000"]
    assert experts_main(words) == 2
    assert "before its first evaluation" in capsys.readouterr().err and not (tmp_path / "new").exists()


YARD = ["--env", "Pendulum-v1", "--steps", "1100", "--evaluations", "5", "--width", "8"]


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["ours", "sb3"])
def test_the_yardstick_measures_both_learners_alike(tmp_path, learner, monkeypatch, capsys):
    monkeypatch.setattr(learners, "FINAL_EPISODES", 2)
    words = [*YARD, "--learner", learner, "--seeds", "2", "--out", str(tmp_path)]
    assert yardstick.main(words) == 0
    (path,) = tmp_path.iterdir()
    frame = pd.read_csv(path)
    assert path.name == {"ours": "Pendulum-v1_ours-bfloat16.csv", "sb3": "Pendulum-v1_sb3.csv"}[learner]
    assert sorted(frame["step"].unique()) == [220, 440, 660, 880, 1100] and set(frame["seed"]) == {0, 1}
    returns, seconds = frame["return"].to_numpy(), frame["seconds"].to_numpy()
    assert np.isfinite(returns).all() and returns.max() < 0 and seconds.min() >= 0 and seconds.max() > 0
    assert set(frame["torch"]) == {versions()["torch"]}
    assert frame["commit"].notna().all()
    assert yardstick.main(["--table", "--out", str(tmp_path)]) == 0
    assert "| 1,100 | 2* |" in capsys.readouterr().out
    before = path.read_bytes()
    assert yardstick.main(words) == 0 and path.read_bytes() == before  # nothing is measured twice
    assert yardstick.main([*words, "--width", "16"]) == 2 and path.read_bytes() == before
    assert "remove it or give another --out" in capsys.readouterr().err
    frame.drop(columns=["commit", "torch"]).to_csv(path, index=False)  # as before these were written down
    more = [word if word != "2" else "3" for word in words]
    assert yardstick.main(more) == 0  # a third seed beside the two that are there
    frame = pd.read_csv(path)
    assert set(frame["seed"]) == {0, 1, 2} and list(tmp_path.glob("*.lock")) == []
    assert frame["commit"].notna().tolist() == (frame["seed"] == 2).tolist()
    assert yardstick.main(["--table", "--out", str(tmp_path)]) == 0 and "| 1,100 | 3* |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--steps", "-20"], "--steps must be at least 1, got -20"),
        (["--evaluations", "7"], "--steps must be a multiple of --evaluations, 7, got 1100"),
        (["--checkpoint", "0"], "--checkpoint must be above 0 minutes, got 0"),
        (["--table", "--reach", "nan"], "--reach must be a share above 0, got nan"),
    ],
)
def test_bad_settings_of_the_yardstick_are_refused_in_a_line(tmp_path, capsys, more, message):
    assert yardstick.main([*YARD, *more, "--out", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_two_measurements_do_not_write_the_same_csv(tmp_path, capsys):
    with lock(tmp_path / "Pendulum-v1_ours-bfloat16.lock", ""):
        assert yardstick.main([*YARD, "--out", str(tmp_path)]) == 2
    assert "is being measured; wait for it" in capsys.readouterr().err and list(tmp_path.glob("*.csv")) == []


def test_one_seed_in_two_files_is_refused(tmp_path):
    rows = "seed,step,seconds,episode,return,env,learner,precision,width\n0,5,2.0,0,1.0,E,ours,float32,8\n"
    for name in "ab":
        (tmp_path / f"E_{name}.csv").write_text(rows)
    with pytest.raises(BadInput, match=r"two measurements of the same seed; keep one of E_a.csv, E_b.csv"):
        yardstick_table.compare(tmp_path)


HEAD = "seed,step,seconds,episode,return,env,learner,precision,width"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed,step\n0,5", "lacks the columns seconds, episode"),
        (f"{HEAD}\n0.5,5,2,0,1,E,ours,float32,8", "seed must be whole numbers"),
        (f"{HEAD}\n0,5,2,0,,E,ours,float32,8", "lacks values of return"),
        (f"{HEAD}\n0,5,2,0,x,E,ours,float32,8", "cannot read"),
        (f"{HEAD}\n0,5,2,0,1,,ours,float32,8", "env is empty in some rows"),
        (f"{HEAD}\n0,5,2,0,1,E,ours,float32,8,9,9", "cannot read"),
        (HEAD, "it has no rows"),
        ("", "cannot read"),
    ],
)
def test_a_damaged_measurement_is_refused_in_one_line(text, reason, tmp_path, capsys):
    (tmp_path / "E_ours.csv").write_text(f"{text}\n")
    assert yardstick.main(["--table", "--out", str(tmp_path)]) == 2
    assert reason in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_pipe_in_place_of_a_measurement_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "E_ours.csv")
    assert yardstick.main(["--table", "--out", str(tmp_path)]) == 2
    assert "not a regular file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_measurement_that_was_paused_resumes_to_the_same_returns(tmp_path, monkeypatch):
    """Paused 40 updates after the warmup of 1000; killed again after writing its csv, before removing its state."""
    monkeypatch.setattr(learners, "FINAL_EPISODES", 2)
    real, looks = learners.greedy_returns, iter(range(100))

    def ended(*args):
        if next(looks) == 25:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    frames = {}
    for name in ("whole", "halves"):
        words = ["--env", "Pendulum-v1", "--steps", "1200", "--evaluations", "30", "--width", "8", "--seeds", "2"]
        words += ["--out", str(tmp_path / name)]
        if name == "halves":
            monkeypatch.setattr(learners, "greedy_returns", ended)
            with pytest.raises(SystemExit, match="143"):
                yardstick.main(words)
            monkeypatch.setattr(learners, "greedy_returns", real)
            monkeypatch.setattr(TrainingSession, "close", lambda self: self.lock.close())
        assert yardstick.main(words) == 0
        frames[name] = pd.read_csv(*(tmp_path / name).glob("*.csv")).drop(columns="seconds")
    pd.testing.assert_frame_equal(frames["whole"], frames["halves"])
    assert len(list((tmp_path / "halves").iterdir())) == 2  # with the state that was not forgotten
    assert yardstick.main(words) == 0 and len(list((tmp_path / "halves").iterdir())) == 1


def test_the_time_to_a_share_of_the_expert_is_the_first_evaluation_there(tmp_path, capsys, monkeypatch):
    """An expert returns 3228: 80 % are 2582."""
    monkeypatch.setattr(yardstick_table, "card_of", lambda env: Card(tmp_path, expert_return=3228.4))
    about = {"env": "Hopper-v4", "learner": "ours", "precision": "float32", "width": 8, "episode": 0}
    curves = {0: [100, 2600, 2500], 1: [100, 2500, 2590], 2: [0, 0, 2581]}
    rows = [
        {"seed": seed, "step": 10 * (k + 1), "seconds": 5.0 * (k + 1), "return": x, **about}
        for seed, curve in curves.items()
        for k, x in enumerate(curve)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "Hopper-v4_ours.csv", index=False)
    yardstick_table.compare(tmp_path)
    out = capsys.readouterr().out
    assert "2500 2590 2581 | 15 | 12 (2 of 3) |" in out  # the median of 10 and 15
    yardstick_table.compare(tmp_path, reach=0.9)
    assert "| none of 3 |" in capsys.readouterr().out


def test_a_table_without_measurements_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no measurements"):
        yardstick_table.compare(tmp_path)
