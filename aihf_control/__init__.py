"""Policies from demonstrations and comparisons, learned jointly (AIHF, arXiv 2406.06874) and in the ways around it.

import aihf_control as aihf

data = aihf.make_dataset("Hopper-v4")
result = aihf.train("aihf", data, seeds=5)
print(result.frame)
result.policy.save("hopper.safetensors")
action, _ = aihf.load_policy("hopper.safetensors").predict(obs)
"""

import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aihf_control.core.errors import BadInput as BadInput
    from aihf_control.data.dataset import Dataset as Dataset
    from aihf_control.data.generate import DataConfig as DataConfig
    from aihf_control.data.generate import make_dataset as make_dataset
    from aihf_control.environments.modules import allow_module as allow_module
    from aihf_control.learning.annotators import FunctionAnnotator as FunctionAnnotator
    from aihf_control.models.saved import TrainedPolicy as TrainedPolicy
    from aihf_control.models.saved import TrainedReward as TrainedReward
    from aihf_control.models.saved import load_policy as load_policy
    from aihf_control.models.saved import load_reward as load_reward
    from aihf_control.training.result import Result as Result
    from aihf_control.training.result import train as train

__version__ = "0.1.0"

_HOMES = {
    "Result": "training.result",
    "train": "training.result",
    "Dataset": "data.dataset",
    "BadInput": "core.errors",
    "DataConfig": "data.generate",
    "make_dataset": "data.generate",
    "load_dataset": "data.dataset",
    "allow_module": "environments.modules",
    "FunctionAnnotator": "learning.annotators",
    "TrainedPolicy": "models.saved",
    "load_policy": "models.saved",
    "TrainedReward": "models.saved",
    "load_reward": "models.saved",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


if "-m" in _sys.orig_argv:
    _import_module("aihf_control.core.placeholders").install_for_module(_sys.orig_argv)
if "gymnasium" in _sys.modules:
    _import_module("aihf_control.environments")  # registers the package's environments


def __getattr__(name: str):
    """Import a name of the package when it is first used, so that the package itself imports fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aihf_control' has no attribute {name!r}")
    home = _import_module(f"aihf_control.{_HOMES[name]}")
    return home.Dataset.load if name == "load_dataset" else getattr(home, name)
