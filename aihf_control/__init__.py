"""Policies from demonstrations and comparisons, learned jointly (AIHF, arXiv 2406.06874) and in the ways around it.

import aihf_control as aihf

data = aihf.make_dataset("Hopper-v4")
result = aihf.train("aihf", data, seeds=5, sac={"lr": 1e-4}, progress=True)
print(result)
result.policy.save("hopper.safetensors")
action, _ = aihf.load_policy("hopper.safetensors").predict(obs, seed=result.best())
"""

import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aihf_control.core.errors import BadInput as BadInput
    from aihf_control.data.dataset import Dataset as Dataset
    from aihf_control.data.generate import DataConfig as DataConfig
    from aihf_control.environments.modules import allow_module as allow_module
    from aihf_control.learning.annotators import FunctionAnnotator as FunctionAnnotator
    from aihf_control.learning.bc import CloneConfig as CloneConfig
    from aihf_control.learning.direct import DirectConfig as DirectConfig
    from aihf_control.learning.online import OnlineConfig as OnlineConfig
    from aihf_control.learning.replay import ReplayConfig as ReplayConfig
    from aihf_control.learning.reward_model import RewardConfig as RewardConfig
    from aihf_control.learning.sac import SACConfig as SACConfig
    from aihf_control.learning.tilt import TiltConfig as TiltConfig
    from aihf_control.models.saved import TrainedPolicy as TrainedPolicy
    from aihf_control.models.saved import TrainedReward as TrainedReward
    from aihf_control.models.saved import load_policy as load_policy
    from aihf_control.models.saved import load_reward as load_reward
    from aihf_control.training.api import make_config as make_config
    from aihf_control.training.api import make_dataset as make_dataset
    from aihf_control.training.api import train as train
    from aihf_control.training.result import Result as Result

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "core.errors",
    "CloneConfig": "learning.bc",
    "DataConfig": "data.generate",
    "Dataset": "data.dataset",
    "DirectConfig": "learning.direct",
    "FunctionAnnotator": "learning.annotators",
    "OnlineConfig": "learning.online",
    "ReplayConfig": "learning.replay",
    "Result": "training.result",
    "RewardConfig": "learning.reward_model",
    "SACConfig": "learning.sac",
    "TiltConfig": "learning.tilt",
    "TrainedPolicy": "models.saved",
    "TrainedReward": "models.saved",
    "allow_module": "environments.modules",
    "load_dataset": "data.dataset",
    "load_policy": "models.saved",
    "load_reward": "models.saved",
    "make_config": "training.api",
    "make_dataset": "training.api",
    "train": "training.api",
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


def __dir__() -> list[str]:
    """List the public names alone."""
    return sorted([*__all__, "__version__"])
