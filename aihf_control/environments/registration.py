"""Registration of the package's own environments with Gymnasium.

It happens when `aihf_control.environments` is imported, as every command does before it makes an environment, or when
`aihf_control` is imported after Gymnasium. (`aihf_control` alone does not import Gymnasium, which would slow it down.)

- `shifted/<id>` for each of Gymnasium's MuJoCo tasks, for instance `shifted/HalfCheetah-v4`: `shifted.py`
- `aihf/PointMaze-v0`: `point_maze.py`
- `aihf/Terrain-v0`: `terrain.py`
"""

from __future__ import annotations

import gymnasium as gym

ROBOTS = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
VERSIONS = (4, 5)
ROOM = "aihf_control.environments"


def register_environments() -> None:
    """Register all ids. The modules of the environments are imported when one is made."""
    for base in [f"{robot}-v{version}" for robot in ROBOTS for version in VERSIONS]:
        steps = gym.registry[base].max_episode_steps
        gym.register(
            f"shifted/{base}",
            entry_point=f"{ROOM}.shifted:make_shifted",
            max_episode_steps=steps,
            kwargs={"base": base},
        )
    gym.register("aihf/PointMaze-v0", entry_point=f"{ROOM}.point_maze:PointMaze", max_episode_steps=100)
    gym.register("aihf/Terrain-v0", entry_point=f"{ROOM}.terrain:Terrain", max_episode_steps=300)
