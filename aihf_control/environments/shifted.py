"""Shifted dynamics: a MuJoCo task of Gymnasium in groups of scaled masses, friction and motor gears.

gym.make("shifted/HalfCheetah-v4", shares=[0.9, 0.1], mass=[1.0, 1.5], gear=[1.0, 0.7])

Each episode belongs to a group, which its observations do not show. The resets of training and of datasets draw groups
by `shares`. Those of evaluations (`variants.evaluation_number`) take the groups in turn, so every group has as many
evaluation episodes as any other. Without options there is one group, and episodes equal those of the task, bit for bit.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from aihf_control.environments.variants import VariantEnv, evaluation_number

FACTORS = ("mass", "friction", "gear")


class Shifted(VariantEnv):
    """The groups of a task. `shares` (G,) are the groups' probabilities, each of `factors` (G,) scales one quantity."""

    changed = ("body_mass", "body_inertia", "geom_friction", "actuator_gear")
    shares: list[float]
    factors: dict[str, list[float]]

    def variant_of(self, seed: int) -> int:
        number = evaluation_number(seed)
        return self.draw_variant(np.random.default_rng([seed, 3])) if number is None else number % len(self.shares)

    def draw_variant(self, rng: np.random.Generator) -> int:
        if len(self.shares) == 1:  # draw nothing: the generator stays that of the task
            return 0
        return int(rng.choice(len(self.shares), p=self.shares))

    def write_variant(self, model: Any, variant: int) -> None:
        mass, friction, gear = (self.factors[name][variant] for name in FACTORS)
        model.body_mass[:] *= mass
        model.body_inertia[:] *= mass
        model.geom_friction[:, 0] *= friction
        model.actuator_gear[:] *= gear


def make_shifted(
    base: str,
    shares: Sequence[float] = (1.0,),
    mass: float | Sequence[float] = 1.0,
    friction: float | Sequence[float] = 1.0,
    gear: float | Sequence[float] = 1.0,
    **options: Any,
) -> Shifted:
    """Make the task `base` in groups. Each factor is a number for all groups, or a list with one for each.

    Raises ValueError for shares that do not add up to 1, factors that are not above 0, or lists of different lengths.
    """
    if not shares or min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ValueError(f"shares {list(shares)} must be at least 0 and add up to 1")
    factors = {"mass": mass, "friction": friction, "gear": gear}
    lists = {name: _one_for_each(name, value, len(shares)) for name, value in factors.items()}
    if base not in gym.registry or not str(gym.registry[base].entry_point).startswith("gymnasium.envs.mujoco."):
        raise ValueError(f"{base!r} is not one of Gymnasium's MuJoCo tasks")
    module, _, name = str(gym.registry[base].entry_point).partition(":")
    task = getattr(importlib.import_module(module), name)
    assert issubclass(task, MujocoEnv)
    env = type(f"Shifted{name}", (Shifted, task), {})(**{**gym.registry[base].kwargs, **options})
    env.shares, env.factors = [float(x) for x in shares], lists
    env.begin_variants()
    return env


def _one_for_each(name: str, value: float | Sequence[float], n: int) -> list[float]:
    """Return the factors of n groups. Raises ValueError."""
    factors = [float(x) for x in value] if isinstance(value, Sequence) else [float(value)] * n
    if len(factors) != n or not all(0 < x < math.inf for x in factors):
        raise ValueError(f"{name} {value} must be a number above 0, or one for each of the {n} groups of shares")
    return factors
