"""Set-up of all tests: one thread, a robot compiled once, and a small dataset that needs no bundled policy."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import copy
import functools
from pathlib import Path

import mujoco
import pytest
import torch

from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import make_dataset
from tests.helpers import SMALL_DATA, goals_for_tests, random_policies

torch.set_num_threads(1)

# Compiling a robot's XML is most of what making its environment takes, and the tests make thousands: they compile once.
_compiled = functools.cache(mujoco.MjModel.from_xml_path)
mujoco.MjModel.from_xml_path = staticmethod(lambda path: copy.copy(_compiled(path)))


@pytest.fixture(scope="session", autouse=True)
def goals_everywhere():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.learning.task.goals_of", goals_for_tests)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_timings(tmp_path_factory):
    """Keep the times of estimates out of the user's cache folder, where the compiled kernel stays."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("timings")
        patch.setattr("aihf_control.training.estimate.cache_folder", lambda: folder)
        yield


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
