"""Valid files of every kind that is read, all small, for the fuzz test to spoil."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from aihf_control import run
from aihf_control.core.types import join
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.minari import write_minari
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.experts.session import TrainingSession
from aihf_control.testing import After
from aihf_control.training import result
from aihf_control.training.run import train_lanes
from tests.fuzz import hostile
from tests.helpers import random_policies, words
from tests.report.test_page import make_grid

ENV = "Pendulum-v1"
SIZES = DataConfig(demos=2, episodes=4, noise=(0.0,), levels=("expert",), pairs=20, test_pairs=9, clip=5)
MODULE = f"import pathlib\npathlib.Path({hostile.SENTINEL!r}).touch()\n"
TRAINING = (
    f"train --env {ENV} --out training --seeds 1 --updates 12 --every 6 --episodes 1 --warmup 4 --batch 8".split()
)
TRAINING += ["--envs", "1", "--capacity", "50", "--sac.hidden", "8", "8", "--precision", "float32"]
RETRAINING = ["--updates", "12", "--envs", "2", "--episodes", "2", "--workers", "1"]
CARD = "# Trained.\nrandom_return = -1200.5\nexpert_return = -150\nmedium_return = -300.0\n"


def run_here(whole, dataset, workers, stop=None, pause=None, place=None, step_timeout=0.0, annotator=None):
    """Train in this process, with a checkpoint after every step, in place of `run_workers`."""
    return train_lanes(whole, dataset, stop, pause, place and dataclasses.replace(place, minutes=1e-9))


def _run_half(whole, dataset, workers, stop=None, pause=None, place=None, step_timeout=0.0, annotator=None):
    return run_here(whole, dataset, workers, stop, After(8), place)


def _run_all(*args: Any) -> Any:
    yield from run_here(*args)
    raise KeyboardInterrupt


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def make_material(folder: Path) -> None:
    """Write one valid file of every kind that is read."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    policies = random_policies(ENV, folder / "zips")
    make_dataset(ENV, SIZES, policies, folder / "data")
    shutil.copy(policies["expert"], folder / "policy.zip")
    shutil.copy(folder / "data" / "preferences.csv", folder / "mine.csv")
    dataset = Dataset.load(folder / "data")
    _make_transitions(folder, dataset)
    write_minari(dataset, "mine-v0")
    _make_runs(folder)
    _make_training(folder)
    _make_tables(folder)
    make_grid(folder / "grid", [])
    os.mkfifo(folder / "pipe")
    hostile.bomb(folder / "bomb.npz", "obs.npy")
    hostile.bomb(folder / "bomb.zip", "policy.pth")
    (folder / f"{hostile.PLANTED}.py").write_text(MODULE)


def _make_transitions(folder: Path, dataset: Dataset) -> None:
    """Write mine.npz with our names of columns, and mine.hdf5 with D4RL's."""
    import h5py

    steps, ends = join([t.steps() for t in dataset.pool]), np.cumsum([len(t) for t in dataset.pool]) - 1
    columns = {"obs": steps.obs, "act": steps.act, "next_obs": steps.next_obs, "reward": 0 * steps.done}
    truncated = np.isin(np.arange(len(steps.act)), ends)
    np.savez(folder / "mine.npz", **columns, terminated=steps.done > 0, truncated=truncated)
    names = {"obs": "observations", "act": "actions", "next_obs": "next_observations", "reward": "rewards"}
    with h5py.File(folder / "mine.hdf5", "w") as f:
        for name, array in columns.items():
            f[names[name]] = array
        f["terminals"], f["timeouts"] = steps.done > 0, truncated


def _make_runs(folder: Path) -> None:
    """Write run/, which has finished, and unfinished/ and ended/, which have checkpoints, the latter the last one."""
    line = [ENV if word == "Hopper-v4" else word for word in words("irl", folder / "data", folder)]
    trainers = {"run": (run_here, 0), "unfinished": (_run_half, 143), "ended": (_run_all, 130)}
    for name, (trainer, code) in trainers.items():
        with replaced(result, "run_workers", trainer):
            assert run.main([*line, "--folder", str(folder / name)]) == code
    for name in ("unfinished", "ended"):
        config = json.loads((folder / name / "config.json").read_text())
        config["options"]["dataset"] = "data"
        (folder / name / "config.json").write_text(json.dumps(config))


def _make_training(folder: Path) -> None:
    """Write training/, with checkpoints of `experts train`, and cards/, with what it leaves at its end."""
    with contextlib.chdir(folder), replaced(TrainingSession, "close", lambda _: None):
        assert experts_main([*TRAINING, "--checkpoint", "1e-9"]) == 0
    (folder / "cards").mkdir()
    shutil.copy(folder / "policy.zip", folder / "cards" / "expert.zip")
    shutil.copy(folder / "training" / "training.csv", folder / "cards")
    (folder / "cards" / "card.toml").write_text(CARD)
    env = VecNormalize(DummyVecEnv([lambda: gym.make(ENV)]))
    env.reset()
    env.save(str(folder / "stats.pkl"))


def _make_tables(folder: Path) -> None:
    """Write the results of retraining, of the yardstick, and of the attempts of a bench."""
    episodes = [{"seed": seed, "episode": e, "return": -900.5 - e} for seed in range(2) for e in range(2)]
    pd.DataFrame(episodes).assign(updates=12, envs=2).to_csv(folder / "run" / "retrained.csv", index=False)
    about = {"env": ENV, "learner": "ours", "precision": "float32", "width": 8, "seconds": 1.5}
    (folder / "yardstick").mkdir()
    rows = pd.DataFrame([row | about | {"step": step} for row in episodes for step in (50, 100)])
    rows.to_csv(folder / "yardstick" / f"{ENV}_ours-float32.csv", index=False)
    (folder / "results" / "bench" / "grid").mkdir(parents=True)
    attempts = [{"key": f"bc-{i}", "seconds": 2.5, "code": 0} for i in range(3)]
    (folder / "results" / "bench" / "grid" / "attempts.jsonl").write_text("\n".join(map(json.dumps, attempts)) + "\n")
