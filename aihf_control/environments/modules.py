"""Allowed modules of environment ids.

`gym.make("module:Id-v0")` imports `module`, so an id that is read from a file could run any code on the path. Such an
id is refused unless a person named it: on the command line, or as an argument of a Python function.
"""

from __future__ import annotations

from collections.abc import Iterable

from aihf_control.core.errors import BadInput

_allowed: set[str] = set()


def module_of(env_id: str) -> str:
    """Return the module part of an environment id, "" if it has none."""
    return env_id.partition(":")[0] if ":" in env_id else ""


def allow_module(*env_ids: str) -> None:
    """Allow importing the module parts of these environment ids in this process; ids without one change nothing."""
    _allowed.update(module for env_id in env_ids if (module := module_of(env_id)))


def allowed_modules() -> tuple[str, ...]:
    """Return the allowed modules, to be passed to `set_allowed_modules` of a worker process."""
    return tuple(sorted(_allowed))


def set_allowed_modules(modules: Iterable[str]) -> None:
    """Replace the allowed modules of this process."""
    _allowed.clear()
    _allowed.update(modules)


def check_module(env_id: str) -> None:
    """Raise BadInput if the id has a module part that was not allowed in this process."""
    module = module_of(env_id)
    if ":" in env_id and module not in _allowed:
        raise BadInput(
            f"the environment {env_id!r} comes from a file, and making it would import the module {module!r}; if you "
            f"trust that module, name the environment on the command line with --env {env_id} (in Python: "
            f"aihf_control.allow_module({env_id!r}))"
        )
