"""Finds methods by name: each file of this folder but this one is a method.

Each has a frozen dataclass `Config` whose field `steps` is how many iterations it runs by default, and a generator
`train(task, cfg)` whose loop is the paper's pseudo-code. It yields `Progress` once with the policy that it starts from,
then at every iteration.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from aihf_control.core.errors import BadInput

FOLDER, PACKAGE = Path(__file__).parent, "aihf_control.methods"


def names() -> list[str]:
    """List the names of all methods."""
    return sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.name != "registry")


def load(name: str) -> ModuleType:
    """The module of a method. Raises BadInput for an unknown name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"unknown method {name!r}; {hint}known are {', '.join(names())}")
    return importlib.import_module(f"{PACKAGE}.{name}")
