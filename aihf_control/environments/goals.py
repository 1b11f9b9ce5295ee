"""Goals in observations: which columns are the position, and which the goal."""

from __future__ import annotations

from typing import Any, NamedTuple

from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import EnvSpec, make_env


class Goals(NamedTuple):
    """Columns of an observation."""

    position: tuple[int, ...]
    """Those that are to become equal to the goal."""
    goal: tuple[int, ...]
    """Those that are the goal, in the same order."""


def goals_of(spec: EnvSpec) -> Goals:
    """Return the columns that an environment names as its attributes `position_columns` and `goal_columns`.

    Raises BadInput if it has no goals, or if these are not the same number of columns of its observation.
    """
    env = make_env(spec)
    inner: Any = env.unwrapped
    env.close()
    if not hasattr(inner, "position_columns") or not hasattr(inner, "goal_columns"):
        raise BadInput(f"{spec.id} has no goals in its observations; this method needs them, as in aihf/PointMaze-v0")
    goals = Goals(tuple(inner.position_columns), tuple(inner.goal_columns))
    columns, n = {*goals.position, *goals.goal}, len(goals.goal)
    if len(goals.position) != n or len(columns) != 2 * n or not columns <= set(range(spec.n_obs)):
        raise BadInput(f"{spec.id}: position {goals.position} and goal {goals.goal} must be different columns, as many")
    return goals
