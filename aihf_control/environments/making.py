"""Make a Gymnasium environment by its id."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from aihf_control.core.errors import BadInput
from aihf_control.environments import watchdog
from aihf_control.environments.faults import one_line
from aihf_control.environments.modules import check_module

UNKNOWN = "; for an environment of another package, give the id as MODULE:ID, for example my_package:Reach-v0"


def make(env_id: str, options: dict[str, Any]) -> gym.Env:
    """Make an environment with `options`. Raises BadInput if its id has a module part that was not allowed, or if it
    cannot be made."""
    if not isinstance(env_id, str):
        raise BadInput(f"the environment id must be a string, got {env_id!r}"[:300])
    check_module(env_id)
    try:
        with watchdog.calling(), _silence_known_warnings():
            return gym.make(env_id, disable_env_checker=True, **options)
    except Exception as e:  # a constructor may raise anything
        raise _cannot_make(env_id, e) from e


def check_known(env_id: str) -> None:
    """Raise BadInput if Gymnasium has no environment of this id. Imports the id's module, which must be allowed."""
    check_module(env_id)
    try:
        gym.spec(env_id)
    except Exception as e:  # the import of a module may raise anything
        raise _cannot_make(env_id, e) from e


def _cannot_make(env_id: str, e: Exception) -> BadInput:
    hint = UNKNOWN if isinstance(e, gym.error.NameNotFound | gym.error.NamespaceNotFound) else ""
    return BadInput(f"cannot make the environment {env_id!r}: {one_line(e)}{hint}")


@contextlib.contextmanager
def _silence_known_warnings() -> Iterator[None]:
    """Hide that v4 ids are old (the benchmark uses them) and that `settotalmass` in HalfCheetah's XML is deprecated,
    which MuJoCo would also write to MUJOCO_LOG.TXT. Every other warning is passed on."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*is out of date")
        with contextlib.suppress(ImportError):
            import mujoco

            set_handler = mujoco.set_mju_user_warning  # pyright: ignore[reportAttributeAccessIssue]  # not in its stubs
            set_handler(_mujoco_warning)
            stack.callback(set_handler, None)
        yield


def _mujoco_warning(message: str) -> None:
    if "settotalmass" not in message:
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)
