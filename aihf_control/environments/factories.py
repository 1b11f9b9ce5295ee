"""Environments that are given as objects or functions, and not by an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from aihf_control.core.errors import BadInput

NAMESPACE = "python/"  # of the ids of functions


def id_of(env: str | gym.Env | Callable[[], gym.Env]) -> tuple[str, dict[str, Any]]:
    """Return the id of an environment and its options.

    A function is registered under an id of this process. An environment is made anew in every lane, so it must have
    been made by its id, without wrappers of its own. Raises BadInput.
    """
    if isinstance(env, str):
        return env, {}
    if isinstance(env, gym.Env):
        return _id_of_object(env)
    if callable(env):
        return _register(env), {}
    raise BadInput(f"give an environment's id, an environment, or a function that makes one, got {type(env).__name__}")


def is_local(env_id: str) -> bool:
    """Return whether an environment comes from a function, and is known in this process only."""
    return env_id.startswith(NAMESPACE)


def _id_of_object(env: gym.Env) -> tuple[str, dict[str, Any]]:
    spec = env.spec
    if spec is None or spec.additional_wrappers or spec.id not in gym.registry:
        raise BadInput(
            "every lane needs a copy of the environment, and this one was not made by its id alone; give a function "
            "that makes one, for instance lambda: MyWrapper(MyEnv())"
        )
    return spec.id, {name: value for name, value in spec.kwargs.items() if name != "render_mode"}


def _register(make: Callable[[], gym.Env]) -> str:
    """Register a function, once, and return its id. Its time limit is that of the environment that it makes."""
    name = "".join(c if c.isalnum() else "-" for c in getattr(make, "__qualname__", type(make).__name__)).strip("-")
    env_id = f"{NAMESPACE}{name}-{id(make):x}-v0"
    if env_id not in gym.registry:
        try:
            env = make()
        except Exception as e:
            raise BadInput(f"the function that makes the environment failed: {type(e).__name__}: {e}") from e
        limit = env.spec.max_episode_steps if env.spec else None
        env.close()
        gym.register(env_id, entry_point=lambda **options: make(**options), max_episode_steps=limit)
    return env_id
