"""Helpers that tests share: small settings of any method, small data, and short command lines."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from aihf_control import methods
from aihf_control.data.generate import DataConfig
from aihf_control.environments.goals import Goals, goals_of
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.learning.bc import CloneConfig
from aihf_control.learning.best import BestConfig
from aihf_control.learning.direct import DirectConfig
from aihf_control.learning.replay import ReplayConfig
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.learning.sac import SACConfig
from aihf_control.learning.task import Task
from aihf_control.learning.tilt import TiltConfig
from aihf_control.models.expert import expert_of
from aihf_control.models.lanes import Dims
from aihf_control.models.networks import Policy
from aihf_control.models.sb3_writer import write_zip
from aihf_control.training import run

ROOT = Path(__file__).parents[1]
STEPS = 20
FAST_METHODS = ("aihf", "bc", "dpo", "nash_md", "oaif", "parl")  # one of each kind
EACH_METHOD = [pytest.param(name, marks=[] if name in FAST_METHODS else pytest.mark.slow) for name in methods.names()]
UPDATES_ARE_STEPS = ("bc", "ask", "density")
NEED_NO_PAIRS = ("bc", "density", "irl", "metric_rl", "offline_joint", "offline_pre", "sapo")
NEED_PAIRS = [name for name in methods.names() if name not in NEED_NO_PAIRS]
SMALL_DATA = DataConfig(
    demos=4, demo_level="expert", episodes=4, noise=(0.0,), pairs=60, test_pairs=30, clip=10, teacher="noisy"
)


def goals_for_tests(spec: EnvSpec) -> Goals:
    """Goals of any environment, so that methods that need them keep the laws on the data of all others."""
    return goals_of(spec) if spec.id.startswith("aihf/PointMaze") else Goals((0,), (1,))


def random_policies(env: str, folder: Path) -> dict[str, Path]:
    """SB3 zips of untrained policies, by level."""
    spec = spec_of(env)
    paths = {level: folder / f"{level}.zip" for level in ("expert", "medium", "weak")}
    for seed, path in enumerate(paths.values()):
        write_zip(path, expert_of(Policy(Dims((seed,), spec.n_obs, spec.n_act), (8, 8)), 0), spec)
    return paths


SMALL: dict[str, Any] = {
    "hidden": (8, 8),
    "warmup": 4,
    "reward_every": 5,
    "reward_updates": 5,
    "reward_warmup": 2,
    "hold": 3,
    "episodes": 1,
    "every": 5,
    "updates": 10,
    "batch": 16,
    "pair_steps": 100,
    "capacity": 500,
    "last": 100,
    "average": 0.2,
    "direct_updates": 5,
    "length": 6,
    "phases": 3,
    "played": 4,
    "queue": 10,
    "lists": 3,
    "tries": 2,
    "step_sizes": (0.0, 0.5),
    "size": 4,
}


def small(config: Any, **given: Any) -> Any:
    """A config with everything that costs time made small, whatever method it belongs to, and `given` as it is."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    nested = {name: small(value) for name, value in fields.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(config, **{k: v for k, v in SMALL.items() if k in fields} | nested | given)


def small_config(method: str, steps: int = 30) -> Any:
    given: dict[str, Any] = {"steps": steps}
    if method in UPDATES_ARE_STEPS:  # its --steps are the updates of the clone
        given["clone"] = dataclasses.replace(small(CloneConfig()), updates=CloneConfig.updates)
    return small(methods.load(method).Config(), **given)


def flags(config: Any, prefix: str = "") -> list[str]:
    """The words of a command line that give this config."""
    words: list[str] = []
    for field in dataclasses.fields(config):
        name, value = field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            words += flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            words.append(f"--{prefix}{'' if value else 'no-'}{name}")
        else:
            words += [f"--{prefix}{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


TINY = {
    "sac": SACConfig(hidden=(16, 16)),
    "best": BestConfig(every=0),
    "clone": CloneConfig(updates=5, batch=32),
    "reward": RewardConfig(hidden=(16,), batch=32, pair_steps=80, last=50),
    "replay": ReplayConfig(batch=32, capacity=500),
    "hidden": (16, 16),
    "warmup": 4,
    "reward_every": 3,
    "reward_updates": 6,
    "reward_warmup": 0,
    "tilt": TiltConfig(share=0.0),
    "direct_updates": 3,
    "direct": DirectConfig(hidden=(16, 16), pair_steps=400),
    "played": 3,
    "lists": 2,
    "tries": 2,
}


def tiny(name: str, **more):
    """A config of the method in which everything is small."""
    config = methods.load(name).Config
    fields = {f.name for f in dataclasses.fields(config)}
    settings = {k: v for k, v in (TINY | more).items() if k in fields}
    if "online" in fields:
        settings["online"] = more.get("online", dataclasses.replace(config().online, length=6, phases=2))
    if name in UPDATES_ARE_STEPS:
        settings["clone"] = dataclasses.replace(settings["clone"], updates=CloneConfig.updates)
    if name == "salmon":  # refuses other rewards
        settings["reward"] = dataclasses.replace(settings["reward"], actions=True, span=0.0, mistakes=0.0)
    return config(**settings)


def make_task(dataset, n_pairs: int = 20, seeds=(0, 1)) -> Task:
    return Task(dataset, seeds, n_demos=1, n_pairs=n_pairs)


def play(name: str, task: Task, n: int, **more):
    """The method's first yield and n iterations more."""
    return list(itertools.islice(methods.load(name).train(task, tiny(name, **more)), n + 1))


def words(method: str, dataset: Path, out: Path, *more: str, steps: int = STEPS) -> list[str]:
    """A command line for a run of seconds."""
    few = ["--eval-episodes", "1", "--final-episodes", "2", "--evaluations", "2", "--precision", "float32"]
    size = ["--seeds", "2", "--demos", "2", "--pairs", "20", "--workers", "1", "--device", "cpu"]
    where = ["--env", "Hopper-v4", "--method", method, "--dataset", str(dataset), "--out", str(out)]
    return [*where, *size, *few, *flags(small_config(method, steps)), *more]


def in_this_process(whole, dataset, workers, stop=None, pause=None, place=None, step_timeout=0.0, annotator=None):
    """In place of `cell.deal`: without the seconds that a new process takes to import torch."""
    return run.train_lanes(whole, dataset, stop, pause, place, annotator)
