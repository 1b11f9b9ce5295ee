"""A point in a maze that has to reach a goal.

gym.make("aihf/PointMaze-v0", maze="u")

The action is a force on the point in the plane, whose velocity follows it within about 0.05 s (mass 0.05, damping 1, a
step of 0.1 s, speed at most 1). The dynamics are deterministic, and away from walls a movement can be taken back.

Observation, (6,): position x y, velocity x y, goal x y. Start and goal are drawn by each reset, uniformly among places
that no wall covers, at least `APART` from each other. The goal is a body without forces, so that the simulator's
positions and velocities are the whole state. The reward is 1 in the step that comes within `RADIUS` of the goal, which
terminates the episode, and 0 otherwise; so the return of an episode is its success.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box

from aihf_control.environments.cards import envs_folder

Array = np.ndarray
LIBRARY: Any = mujoco  # its stubs lack these names
MAZES = {"open": (), "u": ("middle",), "s": ("lower", "upper")}
"""Names of the inner walls of each maze."""
INNER = ("middle", "lower", "upper")
RADIUS, APART = 0.15, 0.5
ROOM, CLEARANCE = 1.5, 0.12  # half a side of the floor between the outer walls, and a start's distance from any wall
FRAME_SKIP = 10


class PointMaze(MujocoEnv):
    """See the head of this file. `maze`: "open" has no inner wall, "u" one, "s" two from opposite sides."""

    metadata: ClassVar[dict[str, Any]] = {**HalfCheetahEnv.metadata, "render_fps": 10}
    position_columns, goal_columns = (0, 1), (4, 5)
    """Columns of an observation that are the position, and those that are the goal."""

    def __init__(self, maze: str = "u", **options: Any):
        if maze not in MAZES:
            raise ValueError(f"maze {maze!r} is unknown; known are {', '.join(MAZES)}")
        space = Box(-np.inf, np.inf, (6,), np.float64)
        super().__init__(str(envs_folder() / "aihf__PointMaze-v0" / "maze.xml"), FRAME_SKIP, space, **options)
        for name in set(INNER) - set(MAZES[maze]):
            self._remove_wall(name)
        ids = [LIBRARY.mj_name2id(self.model, LIBRARY.mjtObj.mjOBJ_GEOM, name) for name in MAZES[maze]]
        self.walls = np.array([[*self.model.geom_pos[i, :2], *self.model.geom_size[i, :2]] for i in ids]).reshape(-1, 4)

    def _remove_wall(self, name: str) -> None:
        """Make a wall invisible, and let the point pass through it."""
        i = LIBRARY.mj_name2id(self.model, LIBRARY.mjtObj.mjOBJ_GEOM, name)
        self.model.geom_contype[i] = self.model.geom_conaffinity[i] = 0
        self.model.geom_rgba[i, 3] = 0

    def is_free(self, place: Array) -> bool:
        """Return whether a place (2,) is on the floor and at least `CLEARANCE` away from all walls."""
        outside = np.abs(place - self.walls[:, :2]) - self.walls[:, 2:]
        return bool((np.abs(place) <= ROOM - CLEARANCE).all() and (outside.max(1, initial=-np.inf) > CLEARANCE).all())

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        obs = self._get_obs()
        reached = bool(np.linalg.norm(obs[:2] - obs[4:]) < RADIUS)
        if self.render_mode == "human":
            self.render()
        return obs, float(reached), reached, False, {"is_success": reached}

    def reset_model(self) -> Array:
        start = self._draw_place()
        goal = self._draw_place()
        while np.linalg.norm(goal - start) < APART:
            goal = self._draw_place()
        self.set_state(np.concatenate([start, goal]), np.zeros(4))
        return self._get_obs()

    def _draw_place(self) -> Array:
        place = self.np_random.uniform(-ROOM, ROOM, 2)
        while not self.is_free(place):
            place = self.np_random.uniform(-ROOM, ROOM, 2)
        return place

    def _get_obs(self) -> Array:
        return np.concatenate([self.data.qpos[:2], self.data.qvel[:2], self.data.qpos[2:]])
