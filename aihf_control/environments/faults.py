"""Faults of an environment's own code, as BadInput with one line."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.environments import watchdog

INTERFACE = "reset must return (obs, info), and step must return (obs, reward, terminated, truncated, info)"


@contextlib.contextmanager
def report_faults(env_id: str, when: str) -> Iterator[None]:
    """Raise BadInput for anything that the environment's own code raises."""
    try:
        with watchdog.calling():
            yield
    except Exception as e:
        raise fault(env_id, when, e) from e


def fault(env_id: str, when: str, e: Exception) -> BadInput:
    """Return the error for an exception of an environment: its message, and the place in the environment's code."""
    frame = traceback.extract_tb(e.__traceback__)[-1]
    hint = f"; {INTERFACE}" if "unpack" in str(e) or "unexpected keyword argument 'seed'" in str(e) else ""
    where = f"{frame.filename}, line {frame.lineno}"
    return BadInput(f"{env_id} failed {when}: {type(e).__name__}: {one_line(e)} ({where}){hint}")


def one_line(value: object) -> str:
    """Format a value on one line of at most 300 characters."""
    return " ".join(str(value).split())[:300]


def describe(value: Any) -> str:
    """Describe a value that an environment returned, in a few words."""
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)} values"
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of shape {value.shape}"
    return one_line(repr(value))[:80]
