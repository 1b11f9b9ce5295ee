"""Policies trained from scratch on a learned reward that is frozen."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from aihf_control import retrain, run
from aihf_control.environments.gym import spec_of
from aihf_control.experts.true_reward import TrueRewardConfig, learn
from aihf_control.learning.evaluation import greedy_returns
from aihf_control.learning.sac import SACConfig
from tests.helpers import in_this_process, words

TINY = TrueRewardConfig(updates=12, envs=2, warmup=6, batch=16, sac=SACConfig(hidden=(8, 8)))
FLAGS = ["--updates", "12", "--envs", "2", "--episodes", "2", "--workers", "1", "--sac.hidden", "8", "8"]


@pytest.fixture(scope="module")
def runs(dataset_folder, tmp_path_factory) -> Path:
    """A run with a reward and one without."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        for method in ("bc", "irl"):
            assert run.main([*words(method, dataset_folder, out), "--folder", str(out / method)]) == 0
    return out


def test_a_given_reward_replaces_the_true_reward():
    """A reward equal to the action gives large actions, its negative small ones; the true reward is the same."""
    spec, means = spec_of("Pendulum-v1"), []
    cfg = dataclasses.replace(TINY, updates=300, sac=SACConfig(hidden=(16, 16), lr=1e-2, alpha=(0.01,)))
    for sign in (1.0, -1.0):
        *_, (_, sac) = learn(spec, (0,), cfg, reward=lambda obs, act, sign=sign: sign * act[..., 0])
        means.append(sac.policy.act(torch.zeros(1, 8, 3)).mean())
    assert means[0] > 0.5 and means[1] < -0.5


def test_only_the_given_reward_is_used():
    """With equal rewards the same seeds learn the same, with the true reward and with half of it."""
    spec, learned = spec_of("Pendulum-v1"), []
    for factor in (1.0, 0.5):
        with pytest.MonkeyPatch.context() as patch:
            _scale_the_true_reward(patch, factor)
            *_, (_, sac) = learn(spec, (0,), TINY, reward=lambda obs, act: obs[..., 0])
            learned.append(sac.policy.mean.weight)
    assert torch.equal(*learned)


def _scale_the_true_reward(patch, factor: float) -> None:
    from aihf_control.environments.gym import Envs

    before = Envs.step

    def step(self, act, which=None):
        obs, reward, terminated, truncated = before(self, act, which)
        return obs, factor * reward, terminated, truncated

    patch.setattr(Envs, "step", step)


@pytest.mark.slow
def test_each_run_with_a_reward_keeps_its_returns_and_is_not_retrained_twice(runs, capsys):
    assert retrain.main([str(runs), *FLAGS]) == 0
    assert "1 runs with a learned reward, 0 of them" in capsys.readouterr().out
    frame = pd.read_csv(runs / "irl" / "retrained.csv")
    assert len(frame) == 2 * frame["seed"].nunique() and not (runs / "bc" / "retrained.csv").exists()
    assert retrain.main([str(runs), *FLAGS]) == 0
    printed = capsys.readouterr().out
    assert "1 of them already retrained" in printed and "| irl | Hopper-v4 | irl |" in printed
    assert (runs / "retrained.md").read_text() in printed


def test_the_true_return_is_reported(runs, monkeypatch):
    """The returns are those of each lane's averaged policy from the initial states of every evaluation."""
    options = retrain.Options((runs,), updates=12, envs=2, episodes=2, sac=SACConfig(hidden=(8, 8)))
    asked = []
    monkeypatch.setattr(retrain, "greedy_returns", lambda *args: asked.append(args) or greedy_returns(*args))
    frame = retrain.train_from_scratch(retrain.Job(runs / "x.csv", runs / "irl"), options)
    ((policy, spec, n),) = asked
    again = greedy_returns(policy, spec, n)
    assert (frame["return"].to_numpy().reshape(again.shape) == again).all() and set(frame["updates"]) == {12}


@pytest.mark.slow
def test_the_true_reward_is_trained_on_once_per_environment(runs, capsys):
    assert retrain.main([str(runs), *FLAGS, "--true-reward"]) == 0
    assert "| - | Hopper-v4 | the true reward | - | - |" in capsys.readouterr().out
    (path,) = runs.glob("true_reward-*.csv")
    before = path.read_bytes()
    assert retrain.main([str(runs), str(runs.resolve()), *FLAGS, "--true-reward"]) == 0 and path.read_bytes() == before
    longer = [word if word != "12" else "13" for word in FLAGS]
    assert retrain.main([str(runs), *longer, "--true-reward"]) == 2 and path.read_bytes() == before
    assert "was made with --updates 12, not 13" in capsys.readouterr().err


@pytest.mark.slow
def test_on_the_true_reward_it_learns_as_without_a_run(runs):
    """The reference row is SAC on the true reward, bit for bit, and not on the run's reward."""
    options = retrain.Options((runs,), updates=1030, envs=2, episodes=1, sac=SACConfig(hidden=(8, 8), average=1.0))
    job = retrain.Job(runs / "x.csv", runs / "irl", true_reward=True)
    frame, other = (retrain.train_from_scratch(j, options) for j in (job, job._replace(true_reward=False)))
    spec, cfg = spec_of("Hopper-v4"), TrueRewardConfig(1030, 2, sac=options.sac)
    seeds, products = sorted(set(frame["seed"])), getattr(torch, retrain.matmul_precision("auto", "cpu"))
    *_, (_, sac) = learn(spec, seeds, cfg, products=products)
    assert frame["return"].to_list() == greedy_returns(sac.average, spec, 1).ravel().tolist()
    assert frame["return"].to_list() != other["return"].to_list()


@pytest.mark.parametrize("target", ["retrained.csv", "nothing.csv"])  # a loop, and a file that is not there
def test_a_result_that_is_a_link_to_no_file_is_refused(runs, target, capsys):
    link = runs / "irl" / "retrained.csv"
    saved = link.read_bytes() if link.exists() else None
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        assert retrain.main([str(runs), *FLAGS]) == 2
    finally:
        link.unlink()
        if saved is not None:
            link.write_bytes(saved)
    assert capsys.readouterr().err == f"error: {link} is a link that leads to no file; remove it\n"


def test_a_folder_without_a_reward_is_refused(runs, tmp_path, capsys):
    for folder in (tmp_path, runs / "bc"):
        assert retrain.main([str(folder), *FLAGS]) == 2
        assert "no finished run with a learned reward" in capsys.readouterr().err
    assert retrain.main([]) == 2 and "nothing to retrain" in capsys.readouterr().err


def test_a_damaged_result_is_named(runs, capsys):
    path = runs / "irl" / "retrained.csv"
    before = path.read_bytes() if path.exists() else None
    for text in ("", "seed\n0\n", "seed,episode,return,updates,envs\n0,0,x,12,2\n"):
        path.write_text(text)
        assert retrain.main([str(runs), *FLAGS]) == 2
        assert f"cannot read {path}: " in (error := capsys.readouterr().err) and "remove it" in error
    path.unlink()
    if before:
        path.write_bytes(before)
