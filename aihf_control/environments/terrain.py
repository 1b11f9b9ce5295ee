"""HalfCheetah on terrain by level, paid rarely: a slope, friction, masses, and low boxes on the way.

gym.make("aihf/Terrain-v0", levels=50)

Robot, observation (17,) and action (6,) are those of Gymnasium's HalfCheetah-v5; the observation does not show the
terrain. A level is a number. It sets the angle between gravity and the floor's normal, uniform up to `slope` degrees
either way, factors of friction and of the robot's masses, and positions and heights of eight boxes on the first
`COURSE` metres. The resets of training and of datasets take levels 0 to levels - 1. Those of evaluations
(`variants.evaluation_number`) take levels 50 to 99, one after the other, which training never sees.

The reward is 1 for every `metres` of progress beyond the farthest position so far, else 0; an episode has 300 steps of
0.05 s.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.utils import EzPickle

from aihf_control.environments.variants import VariantEnv, evaluation_number

Array = np.ndarray
LIBRARY: Any = mujoco  # its stubs lack these names
MOST_LEVELS, N_UNSEEN = 50, 50
N_BOXES, COURSE, FIRST_BOX, HALF_HEIGHT = 8, 40.0, 3.0, 0.1  # metres
BOX = (
    '<body name="box {0}" pos="0 0 -1"><geom name="box {0}" type="box" size=".2 2 .1" mass="0" conaffinity="1" '
    'rgba=".4 .45 .55 1"/></body>'
)


class Terrain(VariantEnv, HalfCheetahEnv):
    """See the head of this file. `boxes` is the most that a box rises above the floor, in metres; 0 removes them."""

    changed = ("body_mass", "body_inertia", "body_pos", "geom_friction")

    def __init__(
        self,
        levels: int = MOST_LEVELS,
        slope: float = 8.0,
        friction: float = 0.3,
        mass: float = 0.2,
        boxes: float = 0.08,
        metres: float = 2.0,
        **options: Any,
    ):
        if type(levels) is not int or not 1 <= levels <= MOST_LEVELS:
            raise ValueError(f"levels {levels} must be a whole number from 1 to {MOST_LEVELS}")
        if not (0 <= slope < 45 and 0 <= friction < 1 and 0 <= mass < 1 and 0 <= boxes <= 0.2 and metres > 0):
            raise ValueError(
                f"slope {slope} must be in [0, 45), friction {friction} and mass {mass} in [0, 1), boxes {boxes} in "
                f"[0, 0.2], metres {metres} above 0"
            )
        self.levels, self.slope, self.boxes, self.metres = levels, slope, boxes, metres
        self.spreads = friction, mass
        super().__init__(**options)
        EzPickle.__init__(self, levels, slope, friction, mass, boxes, metres, **options)  # not the base's arguments
        box = LIBRARY.mjtObj.mjOBJ_BODY
        self.box_ids = [LIBRARY.mj_name2id(self.model, box, f"box {i}") for i in range(N_BOXES)]
        self.begin_variants()

    def _initialize_simulation(self) -> tuple[Any, Any]:
        """Compile the robot's file with the boxes in it."""
        text = Path(self.fullpath).read_text()
        boxes = "".join(BOX.format(i) for i in range(N_BOXES))
        model = LIBRARY.MjModel.from_xml_string(text.replace("</worldbody>", boxes + "</worldbody>"))
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, LIBRARY.MjData(model)

    def variant_of(self, seed: int) -> int:
        number = evaluation_number(seed)
        if number is None:
            return self.draw_variant(np.random.default_rng([seed, 5]))
        return MOST_LEVELS + number % N_UNSEEN

    def draw_variant(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.levels))

    def write_variant(self, model: Any, variant: int) -> None:
        rng = np.random.default_rng([variant, 7])
        angle = math.radians(rng.uniform(-self.slope, self.slope))
        friction, mass = (1 + rng.uniform(-spread, spread) for spread in self.spreads)
        model.opt.gravity[:] = np.linalg.norm(model.opt.gravity) * np.array([-math.sin(angle), 0, -math.cos(angle)])
        model.geom_friction[:, 0] *= friction
        model.body_mass[:] *= mass
        model.body_inertia[:] *= mass
        places = np.sort(rng.uniform(FIRST_BOX, COURSE, N_BOXES))
        tops = rng.uniform(0, self.boxes, N_BOXES) if self.boxes else np.full(N_BOXES, -1.0)
        model.body_pos[self.box_ids] = np.stack([places, np.zeros(N_BOXES), tops - HALF_HEIGHT], 1)

    def set_state(self, qpos: Array, qvel: Array) -> None:
        """Set the simulator's state. Progress is paid from there on."""
        super().set_state(qpos, qvel)
        self.farthest = max(0.0, self.data.qpos[0] // self.metres)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        before, self.farthest = self.farthest, max(self.farthest, info["x_position"] // self.metres)
        return obs, float(self.farthest - before), terminated, truncated, info
