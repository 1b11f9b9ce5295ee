"""Any Gymnasium environment with Box spaces, without a card: one of a third party, one that is not MuJoCo, v5."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from aihf_control import run
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.verify import verify
from aihf_control.environments.cards import card_of
from aihf_control.environments.gym import spec_of
from aihf_control.environments.modules import allow_module
from tests.helpers import in_this_process, random_policies, words

RING = '''
import gymnasium as gym
import numpy as np

class Ring(gym.Env):
    """A point that is pushed about and rewarded for being near the origin; its spaces are not flat."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = gym.spaces.Box(np.array([[-3.0], [0.0]]), np.array([[5.0], [1.0]]), (2, 1), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.v = self.np_random.normal(size=2), np.zeros(2)
        return np.stack([self.x, self.v]), {}

    def step(self, action):
        assert self.action_space.contains(action.astype(np.float64)), action
        self.v = 0.9 * self.v + 0.1 * action[:, 0]
        self.x = self.x + 0.1 * self.v + 0.01 * self.np_random.normal(size=2)
        return np.stack([self.x, self.v]), float(-np.abs(self.x).sum()), bool(np.abs(self.x).max() > 9), False, {}

gym.register("Ring-v0", Ring, max_episode_steps=60)
'''


@pytest.fixture
def ring(tmp_path, monkeypatch) -> str:
    """The id of an environment that an installed package would register when it is imported."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "ring_of_others.py").write_text(RING)
    monkeypatch.syspath_prepend(tmp_path / "package")
    allow_module("ring_of_others:Ring-v0")  # the tests use it before the commands that allow it themselves
    yield "ring_of_others:Ring-v0"
    sys.modules.pop("ring_of_others", None)
    gym.registry.pop("Ring-v0", None)


def made(env: str, folder: Path, *more: str) -> Path:
    """A small dataset by the command, of untrained policies."""
    policies = [f"{level}={path}" for level, path in random_policies(env, folder / "zips").items()]
    sizes = [
        "--demos",
        "2",
        "--episodes",
        "4",
        "--noise",
        "0",
        "0.5",
        "--pairs",
        "20",
        "--test-pairs",
        "9",
        "--clip",
        "9",
    ]
    out = ["--env", env, "--out", str(folder / "made"), "--policy", *policies]
    assert data_main(["make", *out, *sizes, *more, "--force"]) == 0
    return folder / "made"


def learned(env: str, dataset: Path, out: Path, monkeypatch) -> dict:
    """What a run of seconds says of itself."""
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    line = [env if word == "Hopper-v4" else word for word in words("aihf", dataset, out)]
    assert run.main(line) == 0
    (summary,) = out.glob("*/*/*/summary.json")
    return json.loads(summary.read_text())


def test_an_environment_of_others_goes_all_the_way(ring, tmp_path, monkeypatch, capsys):
    assert card_of(ring) is None
    folder = made(ring, tmp_path, "--query", "coverage", "--demo-every", "7")
    assert data_main(["verify", str(folder)]) == 0 and "all 26 episodes" in capsys.readouterr().out
    dataset = Dataset.load(folder)
    assert dataset.meta["env"] == ring and dataset.pool[0].obs.shape == (61, 4)
    assert dataset.pool[0].act.shape == (60, 2) and dataset.pool[0].qpos is None
    assert np.isfinite(learned(ring, folder, tmp_path / "runs", monkeypatch)["rows"][-1]["return"]["value"])


def test_one_that_is_not_mujoco_goes_all_the_way(tmp_path, monkeypatch, capsys):
    folder = made("Pendulum-v1", tmp_path)
    assert data_main(["verify", str(folder)]) == 0
    assert learned("Pendulum-v1", folder, tmp_path / "runs", monkeypatch)["env"] == "Pendulum-v1"
    assert {len(t) for t in Dataset.load(folder).pool} == {200}


def test_an_environment_of_others_goes_through_minari(ring, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    folder = made(ring, tmp_path)
    assert data_main(["export", str(folder), "--minari", "ring/any-v3"]) == 0
    line = ["import", "--env", ring, "--out", str(tmp_path / "back"), "--pool", "minari:ring/any-v3", "--force"]
    assert data_main(line) == 0
    for a, b in zip(Dataset.load(tmp_path / "back").pool, Dataset.load(folder).pool, strict=True):
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.act, b.act) and np.array_equal(a.reward, b.reward)


@pytest.mark.parametrize("env", ["Hopper-v5", "Walker2d-v5", "Hopper-v4", "Walker2d-v4"])
def test_both_versions_of_a_mujoco_task_are_made_and_verified(env, tmp_path):
    cfg = DataConfig(demos=1, episodes=4, noise=(0.0,), levels=("expert",), pairs=6, test_pairs=2, clip=5)
    dataset = make_dataset(env, cfg, random_policies(env, tmp_path))
    assert set(verify(dataset)) == {None} and dataset.pool[0].qpos is not None


@pytest.mark.parametrize("task", ["Hopper", "HalfCheetah", "Walker2d", "Ant", "Swimmer"])
def test_every_task_has_both_versions(task):
    four, five = spec_of(f"{task}-v4"), spec_of(f"{task}-v5")
    assert four.n_act == five.n_act and four.horizon == five.horizon == 1000
