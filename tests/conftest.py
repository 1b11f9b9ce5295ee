"""What the tests share: one thread, a small dataset that needs no bundled policy, and small settings of any method."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch

from aihf_control import methods
from aihf_control.dataset import Dataset
from aihf_control.environments import spec_of
from aihf_control.experts import expert_of, write_zip
from aihf_control.generate import DataConfig, make_dataset
from aihf_control.lanes import Dims
from aihf_control.nets import Policy

torch.set_num_threads(1)

# Compiling a robot's XML is most of what making its environment takes, and the tests make thousands: they compile once.
_compiled = functools.cache(mujoco.MjModel.from_xml_path)
mujoco.MjModel.from_xml_path = staticmethod(lambda path: copy.copy(_compiled(path)))

SMALL_DATA = DataConfig(demos=4, episodes=4, noise=(0.0,), pairs=60, test_pairs=30, clip=10)


def random_policies(env: str, folder: Path) -> dict[str, Path]:
    """SB3 zips of untrained policies, by level."""
    spec = spec_of(env)
    paths = {level: folder / f"{level}.zip" for level in ("expert", "medium", "weak")}
    for seed, path in enumerate(paths.values()):
        write_zip(path, expert_of(Policy(Dims((seed,), spec.n_obs, spec.n_act), (8, 8)), 0), spec)
    return paths


@pytest.fixture(scope="session")
def policy_zips(tmp_path_factory) -> dict[str, Path]:
    return random_policies("Hopper-v4", tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory, policy_zips) -> Path:
    folder = tmp_path_factory.mktemp("data") / "hopper"
    make_dataset("Hopper-v4", SMALL_DATA, policies=policy_zips, out=folder)
    return folder


@pytest.fixture(scope="session")
def dataset(dataset_folder) -> Dataset:
    return Dataset.load(dataset_folder)


# ------------------------------------------------------------------------------------------------------ small settings

SMALL: dict[str, Any] = {
    "hidden": (8, 8),
    "warmup": 4,
    "reward_every": 5,
    "reward_updates": 5,
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
}


def small(config: Any, **given: Any) -> Any:
    """A config with everything that costs time made small, whatever method it belongs to, and `given` as it is."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    nested = {name: small(value) for name, value in fields.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(config, **{k: v for k, v in SMALL.items() if k in fields}, **nested, **given)


def small_config(method: str, steps: int = 30) -> Any:
    return small(methods.load(method).Config(), steps=steps)


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
