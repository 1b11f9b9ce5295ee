"""Environment ids in foreign files: the module part of an id is imported only if a person named it."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from aihf_control import retrain, run
from aihf_control.bench import __main__ as bench
from aihf_control.core.errors import BadInput
from aihf_control.core.files import sha256
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.environments.gym import EnvSpec, make_env, spaces_of, spec_of
from aihf_control.environments.modules import allow_module, allowed_modules, set_allowed_modules
from aihf_control.environments.watchdog import TIMEOUT_CODE
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.models.saved import load_reward
from aihf_control.training.api import train
from tests.helpers import in_this_process, random_policies, words

PLANTED = """
import pathlib
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv
pathlib.Path(__file__).with_name("imported").touch()
gym.register("Swing-v0", PendulumEnv, max_episode_steps=20)
"""
ENV = "planted_module:Swing-v0"
SIZES = DataConfig(demos=2, episodes=4, noise=(0.0,), levels=("expert",), pairs=20, test_pairs=9, clip=5)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module beside the data, in the working directory, which is on the path; nothing is allowed at first."""
    (tmp_path / "planted_module.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = allowed_modules()
    set_allowed_modules(())
    yield tmp_path
    set_allowed_modules(before)
    disarm(tmp_path)


def disarm(folder: Path) -> None:
    """Restore the state before the module was imported."""
    sys.modules.pop("planted_module", None)
    gym.registry.pop("Swing-v0", None)
    (folder / "imported").unlink(missing_ok=True)
    set_allowed_modules(())


def was_imported(folder: Path) -> bool:
    return (folder / "imported").exists() or "planted_module" in sys.modules


@pytest.fixture
def foreign(planted) -> Path:
    """A dataset of the planted environment, as another person would have made it."""
    make_dataset(ENV, SIZES, random_policies("Pendulum-v1", planted / "zips"), planted / "data")
    disarm(planted)
    return planted / "data"


COMMANDS = {
    "verify": lambda data: ["verify", str(data)],
    "show": lambda data: ["show", str(data), "--render", "0", "--out", str(data / "pair.gif")],
    "export": lambda data: ["export", str(data), "--minari", "swing/any-v0"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_data_command_imports_no_module_that_only_the_file_names(foreign, command, capsys, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(foreign.parent / "minari"))
    if command == "export":
        pytest.importorskip("minari")
    assert data_main(COMMANDS[command](foreign)) == 2 and not was_imported(foreign.parent)
    assert f"--env {ENV}" in capsys.readouterr().err
    assert data_main([*COMMANDS[command](foreign), "--env", "another_module:Swing-v0"]) == 2
    assert not was_imported(foreign.parent)


def test_naming_the_environment_lets_verify_import_it(foreign, capsys):
    assert data_main(["verify", str(foreign), "--env", ENV]) == 0 and was_imported(foreign.parent)
    assert "bit for bit" in capsys.readouterr().out


def test_a_python_function_imports_only_what_was_allowed(foreign):
    dataset = Dataset.load(foreign)
    with pytest.raises(BadInput, match=r"aihf_control\.allow_module"):
        train("bc", dataset, seeds=1, steps=1, demos=1, pairs=5)
    assert not was_imported(foreign.parent)
    allow_module(ENV)
    assert len(train("bc", dataset, seeds=1, steps=1, demos=1, pairs=5, final_episodes=1).final()) == 1


def small_run(foreign: Path, *more: str) -> list[str]:
    line = words("irl", foreign, foreign.parent / "runs", *more)
    return [ENV if word == "Hopper-v4" else word for word in line]


def test_resuming_a_foreign_run_imports_nothing(foreign, monkeypatch, capsys):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    assert run.main(small_run(foreign)) == 0
    (folder,) = (foreign.parent / "runs").glob("*/*/*")
    (folder / "summary.json").unlink()
    for name in ("policy.safetensors", "reward.safetensors"):
        (folder / name).unlink()
    assert folder.parent.parent.name == "planted_module__Swing-v0"
    disarm(foreign.parent)
    capsys.readouterr()
    assert run.main(["--resume", str(folder)]) == 2 and not was_imported(foreign.parent)
    assert f"--env {ENV}" in capsys.readouterr().err
    assert run.main(["--resume", str(folder), "--env", ENV]) == 0 and was_imported(foreign.parent)


def test_a_resumed_run_without_a_dataset_makes_none_with_a_module_of_its_config(foreign, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    assert run.main(small_run(foreign)) == 0
    (folder,) = (foreign.parent / "runs").glob("*/*/*")
    (folder / "summary.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["options"]["dataset"] = None
    (folder / "config.json").write_text(json.dumps(config))
    disarm(foreign.parent)
    assert run.main(["--resume", str(folder)]) == 2 and not was_imported(foreign.parent)


@pytest.mark.slow
def test_workers_and_retrain_import_what_was_named_and_nothing_else(foreign, capsys):
    """Real processes, which inherit nothing but what they are given."""
    assert run.main([*small_run(foreign), "--workers", "2"]) == 0
    (folder,) = (foreign.parent / "runs").glob("*/*/*")
    disarm(foreign.parent)
    small = ["--updates", "40", "--envs", "1", "--episodes", "1", "--workers", "1", "--sac.hidden", "8", "8"]
    assert retrain.main([str(folder), *small]) == 2 and not was_imported(foreign.parent)
    assert f"--env {ENV}" in capsys.readouterr().err and not (folder / "retrained.csv").exists()
    assert retrain.main([str(folder), *small, "--env", ENV]) == 0 and (folder / "retrained.csv").exists()
    disarm(foreign.parent)
    with pytest.raises(BadInput, match="planted_module"):
        spaces_of(load_reward(folder / "reward.safetensors").spec)
    assert not was_imported(foreign.parent)


def test_an_experiment_imports_no_module(planted, capsys):
    (planted / "grid.toml").write_text(f'environments = ["{ENV}"]\nmethods = ["bc"]\n')
    assert bench.main([str(planted / "grid.toml"), "--list"]) == 2 and not was_imported(planted)
    assert f"--env {ENV}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "env", [ENV, "planted_module:", "planted_module:Swing-v0:x", ":Swing-v0", "planted_module:a/b"]
)
def test_no_spelling_of_an_id_imports_a_module(planted, env):
    spec = EnvSpec(env, {}, 3, 1, *spec_of("Pendulum-v1").to_env([[-1.0], [1.0]]), 20)
    for use in (lambda: spec_of(env), lambda: make_env(spec), lambda: spaces_of(spec)):
        with pytest.raises(BadInput, match="comes from a file"):
            use()
    assert not was_imported(planted)


@pytest.mark.parametrize("env", [3, None, ["planted_module:Swing-v0"], {"id": "x"}])
def test_an_id_that_is_no_string_is_refused(env):
    with pytest.raises(BadInput, match="must be a string"):
        spec_of(env)


def test_an_edited_dataset_imports_nothing(dataset_folder, planted):
    for name in ("pool.npz", "preferences.csv"):
        data = (dataset_folder / name).read_bytes()
        (planted / "data" / name).parent.mkdir(exist_ok=True)
        (planted / "data" / name).write_bytes(data)
        assert sha256(data)
    meta = json.loads((dataset_folder / "meta.json").read_text())
    (planted / "data" / "meta.json").write_text(json.dumps(meta | {"env": "planted_module:Hopper-v4"}))
    assert data_main(["verify", str(planted / "data")]) == 2 and not was_imported(planted)


# ------------------------------------------------------------------------------------------------------ run and its env


def test_an_environment_without_policies_gets_advice_that_run_can_follow(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--env", "Pendulum-v1"]) == 2
    error = capsys.readouterr().err
    assert (
        "aihf data make --env Pendulum-v1 --policy" in error and "--dataset FOLDER" in error and error.count("\n") == 1
    )


HANGS = """
import multiprocessing, pathlib, time
import gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Hangs(PendulumEnv):
    def step(self, action):
        while multiprocessing.parent_process() and pathlib.Path(__file__).with_name("hang").exists():  # in workers
            time.sleep(0.01)
        return super().step(action)

gym.register("Swing-v0", Hangs, max_episode_steps=20)
"""


@pytest.mark.slow
def test_a_run_whose_environment_hangs_ends_in_one_line_and_can_be_resumed(planted, capsys):
    (planted / "planted_module.py").write_text(HANGS)
    make_dataset(ENV, SIZES, random_policies("Pendulum-v1", planted / "zips"), planted / "data")
    disarm(planted)
    (planted / "hang").touch()
    line = [*small_run(planted / "data"), "--step-timeout", "1"]
    assert run.main(line) == TIMEOUT_CODE
    error = capsys.readouterr().err
    assert "error: planted_module:Swing-v0 did not return from one call" in error and "Traceback" not in error


@pytest.mark.slow
def test_retraining_whose_environment_hangs_ends_in_one_line(planted, capsys):
    (planted / "planted_module.py").write_text(HANGS)
    make_dataset(ENV, SIZES, random_policies("Pendulum-v1", planted / "zips"), planted / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        assert run.main(small_run(planted / "data")) == 0
    (planted / "hang").touch()
    small = ["--updates", "40", "--envs", "1", "--episodes", "1", "--workers", "1", "--sac.hidden", "8", "8"]
    line = [str(planted / "runs"), *small, "--env", ENV, "--step-timeout"]
    capsys.readouterr()
    assert retrain.main([*line, "1"]) == TIMEOUT_CODE and not list(planted.rglob("retrained.*"))
    error = capsys.readouterr().err
    assert error.startswith(f"error: {ENV} did not return from one call") and error.count("\n") == 1
    (planted / "hang").unlink()
    assert retrain.main([*line, "30"]) == 0 and len(list(planted.rglob("retrained.csv"))) == 1
    assert retrain.main([*line, "-1"]) == 2 and "--step-timeout must be at least 0" in capsys.readouterr().err


def test_a_negative_timeout_is_refused(dataset_folder, tmp_path, capsys):
    assert run.main(words("bc", dataset_folder, tmp_path, "--step-timeout", "-1")) == 2
    assert "--step-timeout must be at least 0" in capsys.readouterr().err


def test_a_search_imports_the_module_that_is_named(planted):
    words = ["search", "--env", ENV, "--iterations", "1", "--every", "1", "--episodes", "1"]
    assert experts_main(words) == 0
    assert Path("results/experts/planted_module__Swing-v0/expert.zip").exists()
