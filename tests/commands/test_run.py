"""From the command to the folder it leaves: every method, bad input, the Python door, and the laws of a fair run."""

import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stable_baselines3
import torch

import aihf_control as aihf
from aihf_control import methods, run
from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import EVALUATION_SEED, Envs
from aihf_control.environments.rollout import rollout
from aihf_control.learning.sac import SAC
from aihf_control.learning.task import Task
from aihf_control.methods import load
from aihf_control.models.saved import load_policy
from aihf_control.models.tensors import read_tensors
from aihf_control.training import run as cell
from aihf_control.training.summary import summarise
from tests.helpers import EACH_METHOD, NEED_PAIRS, STEPS, flags, in_this_process, make_task, play, small_config, words

TIME = r"\d{8}-\d{6}-\d{3}"  # a run's folder
FEW = {"evaluations": 2, "eval_episodes": 1, "final_episodes": 2}
LEARNS_REWARD = [m for m in methods.names() if hasattr(load(m).Config, "reward")]
PLAYS_CLIPS = [m for m in methods.names() if hasattr(load(m).Config, "online")]
TILTS = ("aihf", "rlhf")
ASKS = ("oaif", "bpo", "parl", "zpg")
PAID = ("offline_joint", "offline_pre")
"""The only methods that may read the true reward, by `Task.collect_paid`."""
HAS_SAC = [m for m in methods.names() if hasattr(load(m).Config, "sac")]


# --------------------------------------------------------------------------------------------- what a run leaves behind


@pytest.fixture(scope="module", params=EACH_METHOD)
def finished(request, dataset_folder, tmp_path_factory) -> tuple[str, Path]:
    """A method and the folder that its run left."""
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        assert run.main(words(request.param, dataset_folder, out)) == 0
    (folder,) = (out / "Hopper-v4" / request.param).iterdir()
    return request.param, folder


def log_of(folder: Path) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])


def test_a_run_leaves_all_its_files_and_no_others(finished):
    method, folder = finished
    files = {"config.json", "log.jsonl", "summary.json", "curves.png", "policy.safetensors"}
    files |= {"policy_seed0.zip", "policy_seed1.zip"} | ({"reward.safetensors"} if method in LEARNS_REWARD else set())
    assert {p.name for p in folder.iterdir()} == files
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG") and (folder / "curves.png").stat().st_size > 5000


def test_the_config_stores_what_the_numbers_depend_on(finished, dataset):
    method, folder = finished
    config = json.loads((folder / "config.json").read_text())
    assert config["commit"] and {"python", "torch", "numpy", "gymnasium", "mujoco"} <= config["versions"].keys()
    assert config["dataset"]["digest"] == dataset.digest() and config["dataset"]["sha256"] == dataset.meta["sha256"]
    assert config["cell"]["method"] == method and config["cell"]["seeds"] == [0, 1]
    assert config["cell"]["cfg"]["steps"] == STEPS


def test_the_terminal_output_fits_80_columns(dataset_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    assert run.main([*words("aihf", dataset_folder, tmp_path), "--demos", "1"]) == 0
    out = capsys.readouterr().out
    assert "1 of 4 demonstrations and" in out and "1 demonstration, 20" in out
    (used,) = re.findall(r"used              (\d+) environment steps and", out)
    assert int(used) > STEPS  # with the test episodes of two clones
    assert "pair accuracy     " in out and "rank correlation  " in out
    folders = (str(tmp_path), str(dataset_folder))
    wide = [line for line in out.splitlines() if len(line) > 80 and not any(f in line for f in folders)]
    assert not wide


def test_the_log_has_every_seed_at_every_evaluation(finished):
    log = log_of(finished[1])
    assert sorted(zip(log["seed"], log["step"], strict=True)) == [
        (s, k) for s in (0, 1) for k in (0, STEPS // 2, STEPS)
    ]
    assert log["return"].tolist() == pytest.approx([np.mean(r) for r in log["returns"]])
    assert log.set_index("step")["returns"].map(len).to_dict() == {0: 2, STEPS // 2: 1, STEPS: 2}


def test_the_summary_counts_its_seeds_and_none_diverged(finished):
    method, folder = finished
    stored, log = json.loads((folder / "summary.json").read_text()), log_of(folder)
    assert stored["method"] == method and stored["diverged"] == [] and stored["interrupted"] is False
    (row,) = [row for row in stored["rows"] if row["name"] == method]
    assert row["n"] == 2 and row["return"]["value"] == pytest.approx(log[log["step"] == STEPS]["return"].mean())


def test_env_steps_are_counted_where_a_method_takes_them(finished):
    method, folder = finished
    log = log_of(folder)
    if method in PLAYS_CLIPS:
        assert (log["env_steps"] > 0).any() and log.groupby("seed")["env_steps"].apply(
            lambda n: n.diff().min() >= 0
        ).all()
    elif method in HAS_SAC:
        besides = log["env_steps"] - log["step"]  # in test episodes of two clones, and of the best and newest policies
        assert (besides.groupby(log["seed"]).diff().dropna() >= 0).all()
        keeps_best = hasattr(load(method).Config(), "best")
        assert (besides[log["step"] > 0] > 0).all() if keeps_best else not besides.any()
        if method in TILTS:
            assert (besides > 0).all()
    else:
        assert not log["env_steps"].any()


def test_the_saved_policy_earns_what_the_log_says(finished):
    _, folder = finished
    policy, log = load_policy(folder / "policy.safetensors"), log_of(folder)
    for lane, seed in enumerate(policy.seeds):

        def act(obs, lane=lane):
            return policy.spec.from_env(policy.predict(obs, lane=lane)[0])

        played = rollout(policy.spec, act, [EVALUATION_SEED, EVALUATION_SEED + 1])
        (stored,) = log[(log["seed"] == seed) & (log["step"] == STEPS)]["returns"]
        np.testing.assert_allclose([t.reward.sum() for t in played], stored, rtol=1e-3)


def test_the_exported_zips_act_as_the_saved_policy(finished):
    _, folder = finished
    policy, obs = load_policy(folder / "policy.safetensors"), np.random.default_rng(0).normal(size=(20, 11))
    for lane in (0, 1):
        theirs, _ = stable_baselines3.SAC.load(folder / f"policy_seed{lane}.zip").predict(obs, deterministic=True)
        assert np.std(theirs) > 1e-3
        np.testing.assert_allclose(policy.predict(obs, lane=lane)[0], theirs, atol=1e-5)


def test_a_learned_reward_is_saved_for_every_lane(finished):
    method, folder = finished
    if method not in LEARNS_REWARD:
        pytest.skip(f"{method} learns no reward")
    tensors, about = read_tensors(folder / "reward.safetensors")
    assert about["kind"] == "reward" and about["seeds"] == [0, 1]
    assert all(len(t) == 2 and torch.isfinite(t).all() for t in tensors.values())
    assert {"pair_accuracy", "rank_correlation"} <= set(log_of(folder).columns)
    reward, obs, act = aihf.load_reward(folder / "reward.safetensors"), np.ones((4, 11)), np.zeros((4, 3))
    paid = reward.net(torch.ones(2, 4, 11), torch.zeros(2, 4, 3)).numpy()
    np.testing.assert_allclose([reward(obs, act, lane) for lane in (0, 1)], paid, rtol=1e-5)


def test_two_runs_do_not_share_a_folder(dataset_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    for _ in range(2):
        assert run.main(words("bc", dataset_folder, tmp_path, steps=2)) == 0
    one, other = (tmp_path / "Hopper-v4" / "bc").iterdir()
    assert len(log_of(one)) == len(log_of(other)) == 2 * 3


def test_ctrl_c_ends_a_run_with_what_there_is(dataset_folder, tmp_path, monkeypatch, capfd):
    def interrupted(whole, dataset, workers, stop, pause, place, step_timeout, annotator):
        for event in cell.train_lanes(whole, dataset, stop, pause, place, annotator):
            yield event
            if isinstance(event, cell.Evaluated) and event.step == STEPS // 2 and not stop.is_set():
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("aihf_control.training.result.run_workers", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert run.main(words("dpo", dataset_folder, tmp_path)) == 0
    (folder,) = (tmp_path / "Hopper-v4" / "dpo").iterdir()
    assert json.loads((folder / "summary.json").read_text())["interrupted"] is True
    assert log_of(folder)["step"].max() == STEPS // 2 and (folder / "policy_seed1.zip").exists()
    assert "ending early with the present policies" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_two_processes_give_what_one_gives(dataset, dataset_folder, tmp_path):
    command = [sys.executable, "-m", "aihf_control.run", *words("aihf", dataset_folder, tmp_path, "--workers", "2")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(run.__file__).parents[1])
    assert done.returncode == 0 and not done.stderr, done.stderr
    (folder,) = (tmp_path / "Hopper-v4" / "aihf").iterdir()
    alone = trained("aihf", dataset, demos=2, pairs=20, evaluations=2)
    log = log_of(folder).sort_values(["seed", "step"], ignore_index=True)
    np.testing.assert_allclose(log["return"], alone.frame["return"], rtol=1e-3)
    assert load_policy(folder / "policy.safetensors").seeds == (0, 1)


# ------------------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_dry_run_prints_the_plan_and_writes_nothing(method, dataset_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run.main([*words(method, dataset_folder, Path("runs")), "--dry-run"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"{method} on Hopper-v4: 2 seeds, {STEPS} iterations each\n") and not err
    assert "2 of 4 demonstrations and 20 of 60 comparisons a seed" in out and f"dataset      {dataset_folder} (" in out
    assert f"writes to    runs/Hopper-v4/{method}/" in out and out.endswith("nothing was written\n")
    assert "takes about" in out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_does_not_make_the_default_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--env", "Hopper-v4", "--method", "bc", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "1 of 10 demonstrations and 200 of 1,000 comparisons a seed" in out and "(made first)" in out
    assert run.main(["--env", "Hopper-v4", "--method", "bc", "--dry-run", "--demos", "11"]) == 2
    assert capsys.readouterr().err == "error: --demos 11: the dataset has 10; ask for 0 to 10\n"
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Asks that a command ends with code 2, one line on stderr that holds `message`, and nothing new on disk.

    So it does with --dry-run.
    """
    monkeypatch.chdir(tmp_path)

    def check(argv: list[str], *message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert run.main([*argv, "--dry-run"]) == 2
        dry = capfd.readouterr().err
        assert run.main(argv) == 2
        err = capfd.readouterr().err
        assert re.sub(TIME, "", dry) == re.sub(TIME, "", err)
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert all(t in err for t in message), err
        assert sorted(tmp_path.rglob("*")) == before

    return check


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--evaluations", "0"], "--evaluations must be at least 1, got 0"),
        (["--eval-episodes", "0"], "--eval-episodes must be at least 1, got 0"),
        (["--final-episodes", "-1"], "--final-episodes must be at least 1, got -1"),
        (["--hidden", "8", "0"], "--hidden must be one or more widths of at least 1, got 8 0"),
        (["--first-seed", "-1"], "got (-1, 0)"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--demos", "5"], "--demos 5: the dataset has 4"),
        (["--demos", "-1"], "--demos -1"),
        (["--pairs", "61"], "--pairs 61: the dataset has 60"),
        (["--device", "abacus"], "--device abacus"),
        (["--method", "rhlf"], "did you mean rlhf?"),
        (["--method", "ahif"], "did you mean aihf?"),
        (["--method=nothing"], "unknown method 'nothing'"),
        (["--env", "HalfCheetah-v4"], "is a dataset of Hopper-v4"),
        (["--env", "Nope-v0"], "is a dataset of Hopper-v4"),
        (["--dataset", "absent"], "absent"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(refused, dataset_folder, more, message):
    # with one argument given twice, the last one counts
    refused(words("bc", dataset_folder, Path("runs"), *more), message)


@pytest.mark.parametrize(
    ("method", "flag"), [("aihf", "--sac.hidden"), ("aihf", "--reward.hidden"), ("dpo", "--direct.hidden")]
)
def test_hidden_layers_without_units_are_refused(refused, dataset_folder, method, flag):
    line = words(method, dataset_folder, Path("runs"), flag, "-3")
    refused(line, f"{flag} must be one or more widths of at least 1, got -3")


@pytest.mark.parametrize(
    ("imported", "given", "learned"),
    [
        (True, [], "4 demonstrations and 60 comparisons"),
        (True, ["--demos", "1"], "1 of 4 demonstrations and 60 comparisons"),
        (False, ["--pairs", "20"], "1 of 4 demonstrations and 20 of 60 comparisons"),
    ],
)
def test_a_run_learns_from_all_of_an_imported_dataset(imported, given, learned, dataset_folder, tmp_path, capsys):
    shutil.copytree(dataset_folder, tmp_path / "data")
    meta = json.loads((tmp_path / "data" / "meta.json").read_text())
    meta |= {"brought": {}} if imported else {}
    (tmp_path / "data" / "meta.json").write_text(json.dumps(meta))
    line = words("bc", tmp_path / "data", tmp_path, steps=2)
    for flag in ("--demos", "--pairs"):
        del line[line.index(flag) : line.index(flag) + 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        assert run.main([*line, *given, "--folder", str(tmp_path / "run")]) == 0
    assert f"learns from  {learned} a seed" in capsys.readouterr().out
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert learned.startswith(str(options["demos"])) and options["pairs"] in (20, 60)


def test_bc_refuses_updates_of_a_clone_that_it_does_not_have(dataset_folder, tmp_path, capsys):
    line = ["--env", "Hopper-v4", "--method", "bc", "--dataset", str(dataset_folder), "--out", str(tmp_path / "runs")]
    assert run.main([*line, "--clone.updates", "7"]) == 2
    assert "bc takes --steps gradient steps; give --steps 7" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_environment_without_a_dataset_is_refused(refused):
    refused(["--env", "Nope-v0"], "cannot make the environment 'Nope-v0'")
    refused(["--env", "Hoper-v4"], "Did you mean: `Hopper`?")


def test_an_environment_without_bundled_policies_is_refused_with_what_to_do(refused):
    refused(["--env", "Pendulum-v1"], "no bundled policy for Pendulum-v1", "aihf data make --env Pendulum-v1")


@pytest.mark.parametrize("method", NEED_PAIRS)
def test_a_method_that_learns_from_comparisons_requires_them(refused, dataset_folder, method, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    refused(words(method, dataset_folder, Path("runs"), "--pairs", "0"), "--pairs")


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_method_that_learns_from_demonstrations_requires_them(refused, dataset_folder, method, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    refused(words(method, dataset_folder, Path("runs"), "--demos", "0"), "--demos")


def test_bad_input_found_by_a_worker_is_reported_alike(refused, dataset_folder):
    refused(words("bc", dataset_folder, Path("runs"), "--demos", "0"), "--demos")


@pytest.mark.parametrize("out", ["file", "file/below", "file/far/below"])
def test_a_file_where_the_folder_should_be_is_refused(refused, dataset_folder, tmp_path, out):
    (tmp_path / "file").write_text("in the way")
    refused(words("bc", dataset_folder, Path(out)), out, "--out")


def test_a_damaged_dataset_is_refused(refused, dataset_folder, tmp_path):
    folder = Path(shutil.copytree(dataset_folder, tmp_path / "damaged"))
    with (folder / "preferences.csv").open("a") as f:
        f.write("\n")
    refused(words("bc", folder, Path("runs")), "preferences.csv", "sha256")


@pytest.mark.parametrize(
    ("method", "names"),
    [("aihf", ["--w-demo", "--w-pref", "--sac.gamma"]), ("dpo", ["--direct.beta", "--pairs", "--direct.hidden"])],
)
def test_help_names_the_flags_of_the_method(method, names, capsys):
    with pytest.raises(SystemExit) as end:
        run.main(["--method", method, "--help-all"])
    message = capsys.readouterr().out
    assert end.value.code == 0
    assert all(name in message for name in [*names, "--demos", "--seeds", "--out"])


def test_a_flag_that_does_not_exist_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run.main(["--method", "dpo", "--w-demo", "1"])
    assert end.value.code == 2 and "--w-demo" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", EACH_METHOD)
def test_the_flags_give_the_config(method):
    cfg = small_config(method)
    assert run.parse(["--method", method, *flags(cfg)])[1] == cfg


# ----------------------------------------------------------------------------------------------------- the Python door


def trained(method, dataset, seeds=2, steps=STEPS, **more):
    few = {"cfg": small_config(method, steps), "demos": 2, "pairs": 20, **FEW, **more}
    return aihf.train(method, dataset, seeds=seeds, steps=steps, workers=1, **few)


HONEST: dict[Any, aihf.Result] = {}


def honest(method, dataset, **more) -> aihf.Result:
    """`trained`, but once for all tests that want the same: nobody changes it."""
    key = method, *more.items()
    if key not in HONEST:
        HONEST[key] = trained(method, dataset, **more)
    return HONEST[key]


def test_ten_lines_of_python_train_save_load_and_act(dataset_folder, tmp_path):
    data = aihf.load_dataset(dataset_folder)
    cfg = small_config("aihf", 20)
    result = aihf.train("aihf", data, seeds=2, steps=20, cfg=cfg, workers=1, pairs=20, evaluations=2)
    result.policy.save(tmp_path / "hopper.safetensors")
    policy, obs = aihf.load_policy(tmp_path / "hopper.safetensors"), np.random.default_rng(0).normal(size=(5, 11))
    assert result.frame.groupby("seed")["step"].apply(list).to_dict() == {0: [0, 10, 20], 1: [0, 10, 20]}
    for lane in (0, 1):
        many, state = policy.predict(obs, lane=lane)
        assert many.shape == (5, 3) and state is None
        np.testing.assert_array_equal(many, result.policy.predict(obs, lane=lane)[0])
        one, _ = policy.predict(obs[2], lane=lane)
        assert one.shape == (3,)
        np.testing.assert_allclose(one, many[2], atol=1e-6)
    assert not np.array_equal(policy.predict(obs, lane=0)[0], policy.predict(obs, lane=1)[0])
    assert (policy.predict(obs, deterministic=False)[0] != policy.predict(obs)[0]).any()


def test_phases_are_spread_over_the_steps_given_in_python(dataset):
    result = trained("oaif", dataset, steps=30, cfg=small_config("oaif", 3000))
    assert result.run_spec.cfg.steps == 30 and result.last()["labels"].tolist() == [20, 20]


@pytest.fixture(scope="module")
def policy(dataset):
    return trained("bc", dataset, steps=2).policy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_not_finite_are_refused(policy, value):
    with pytest.raises(BadInput, match="not finite"):
        policy.predict(np.full((3, 11), value))


@pytest.mark.parametrize("shape", [(), (10,), (11, 3), (2, 2, 11)])
def test_observations_of_another_shape_are_refused(policy, shape):
    with pytest.raises(BadInput, match="Hopper-v4 has 11 numbers"):
        policy.predict(np.zeros(shape))


def test_what_is_no_policy_is_refused(dataset_folder, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    for path in (tmp_path / "x.safetensors", tmp_path / "absent", dataset_folder / "pool.npz"):
        with pytest.raises(BadInput, match=path.name):
            aihf.load_policy(path)


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"steps": 0}, {"demos": 9}])
def test_bad_input_from_python_is_refused(dataset, wrong):
    with pytest.raises(BadInput):
        trained("bc", dataset, **wrong)


def test_unknown_methods_and_names_are_refused(dataset):
    with pytest.raises(BadInput, match="did you mean rlhf"):
        aihf.train("rhlf", dataset)
    with pytest.raises(AttributeError, match="nonsense"):
        aihf.nonsense  # noqa: B018


# ----------------------------------------------------------------------------------------------- the laws of a fair run


def equal_policies(a, b) -> bool:
    one, other = (r.policy.net.state_dict() for r in (a, b))
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_evaluating_leaves_training_as_it_is(dataset, method):
    seldom, often = honest(method, dataset), trained(method, dataset, evaluations=10)
    assert len(often.frame) > len(seldom.frame)
    assert equal_policies(seldom, often)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_the_same_seed_gives_the_same_log(dataset, method):
    one, again = honest(method, dataset), trained(method, dataset)
    pd.testing.assert_frame_equal(one.frame, again.frame, check_exact=True)
    assert equal_policies(one, again)
    assert one.frame["return"][0] != one.frame["return"].iloc[-1]


def deceived(method, dataset, monkeypatch) -> tuple[aihf.Result, aihf.Result]:
    """Results of a method with the true reward, and with -1000 times that."""
    as_it_is, real = honest(method, dataset), Envs.step

    def lying(self, *args):
        obs, reward, terminated, truncated = real(self, *args)
        return obs, reward * -1000, terminated, truncated

    monkeypatch.setattr(Envs, "step", lying)
    return as_it_is, trained(method, dataset)


@pytest.mark.parametrize("method", [m for m in EACH_METHOD if m.values[0] not in (*ASKS, *PAID)])
def test_the_true_reward_cannot_reach_a_learner(dataset, method, monkeypatch):
    """But through an annotator's answers, which those who ask for them are given, and where it is paid."""
    one, other = deceived(method, dataset, monkeypatch)
    assert equal_policies(one, other)
    np.testing.assert_allclose(other.frame["return"], -1000 * one.frame["return"])


@pytest.mark.parametrize("method", PAID)
def test_the_true_reward_reaches_the_methods_that_are_paid(dataset, method, monkeypatch):
    """That the test above can fail."""
    assert not equal_policies(*deceived(method, dataset, monkeypatch))


@pytest.mark.parametrize(("door", "allowed"), [("collect_paid", PAID), ("goals", ("metric_rl",))])
def test_only_the_named_methods_use_a_special_door(dataset, door, allowed, monkeypatch):
    """Whoever adds a method that reads true rewards or goals has to say so here."""
    users, real = set(), getattr(Task, door)
    for method in methods.names():

        def noted(self, *args, _method=method, **kwargs):
            users.add(_method)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Task, door, noted)
        play(method, make_task(dataset), 6)
    assert users == set(allowed)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_lanes_numbers_do_not_depend_on_the_lanes_beside_it(dataset, method):
    beside, alone = honest(method, dataset, seeds=3), trained(method, dataset, seeds=(1,))
    for name, t in alone.policy.net.state_dict().items():
        torch.testing.assert_close(beside.policy.net.state_dict()[name][1], t[0], atol=1e-4, rtol=1e-3)
    one, other = beside.frame[beside.frame["seed"] == 1], alone.frame
    np.testing.assert_allclose(one["return"], other["return"], rtol=1e-3)
    zero = beside.policy.net.mean.weight[0]
    assert (zero - alone.policy.net.mean.weight[0]).abs().max() > 1e-2  # and lanes do differ


@pytest.mark.parametrize("method", HAS_SAC)
def test_a_diverging_lane_is_reported_and_leaves_the_others_unchanged(dataset, method, monkeypatch):
    healthy, real, calls = honest(method, dataset, seeds=3), SAC.update, []

    def poisoned(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            with torch.no_grad():
                self.policy.mean.bias[1] = float("nan")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(SAC, "update", poisoned)
    ill = trained(method, dataset, seeds=3)
    for name, t in healthy.policy.net.state_dict().items():
        assert torch.equal(t[[0, 2]], ill.policy.net.state_dict()[name][[0, 2]]), name
    one, other = (r.frame[r.frame["seed"] != 1] for r in (healthy, ill))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert np.isnan(ill.last().loc[1, "return"])
    stored, before = summarise(ill), summarise(healthy)
    assert stored["diverged"] == [1] and before["diverged"] == []
    assert [row["n"] for row in stored["rows"] if row["name"] == method] == [2]


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_method_is_a_generator_that_yields_before_it_learns(method):
    """What the runner counts on: the first policy comes at iteration 0, for the column `clone`."""
    module = load(method)
    assert list(inspect.signature(module.train).parameters) == ["task", "cfg"]
    assert module.Config.__dataclass_params__.frozen and module.__doc__ and isinstance(module.Config.steps, int)
