"""MuJoCo environments whose physical constants are chosen by each reset, as a function of its seed."""

from __future__ import annotations

import abc
import copy
import functools
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

Array = np.ndarray
LIBRARY: Any = mujoco  # its stubs lack these names
FIRST_EVALUATION, N_EVALUATIONS = 20_000, 10_000  # seeds of evaluations start at EVALUATION_SEED of `gym.py`
DERIVED = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0", "actuator_acc0")


def evaluation_number(seed: int) -> int | None:
    """Return 0, 1, ... for the seeds of evaluations, None for other seeds."""
    number = seed - FIRST_EVALUATION
    return number if 0 <= number < N_EVALUATIONS else None


class VariantEnv(MujocoEnv, abc.ABC):
    """A MuJoCo environment with numbered variants of its model. It comes before the robot's class among the bases.

    A reset with a seed takes the variant `variant_of(seed)`, so whoever knows the seed of an episode knows its variant.
    A reset without a seed draws one from the environment's generator. Subclasses define the three methods below, and
    call `begin_variants` at the end of `__init__`.
    """

    changed: tuple[str, ...]
    """Names of the model's arrays that `write_variant` changes; `opt.gravity` is always one of them."""

    @abc.abstractmethod
    def variant_of(self, seed: int) -> int:
        """Return the variant of a reset with this seed."""

    @abc.abstractmethod
    def draw_variant(self, rng: np.random.Generator) -> int:
        """Draw the variant of a reset without a seed."""

    @abc.abstractmethod
    def write_variant(self, model: Any, variant: int) -> None:
        """Write the constants of a variant to a copy of the original model."""

    def begin_variants(self) -> None:
        """Keep a copy of the original model, from which every variant is computed."""
        self.variant, self._original = 0, copy.copy(self.model)
        self._model_of = functools.lru_cache(None)(self._compute)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Array, dict[str, Any]]:
        self.variant = self.draw_variant(self.np_random) if seed is None else self.variant_of(seed)
        model = self._model_of(self.variant)
        self.model.opt.gravity[:] = model.opt.gravity
        for name in (*self.changed, *DERIVED):
            getattr(self.model, name)[:] = getattr(model, name)
        obs, info = super().reset(seed=seed, options=options)
        return obs, {**info, "variant": self.variant}

    def _compute(self, variant: int) -> Any:
        """Return a model of a variant, with the quantities that MuJoCo derives from its constants."""
        model = copy.copy(self._original)
        self.write_variant(model, variant)
        LIBRARY.mj_setConst(model, LIBRARY.MjData(model))
        return model
