"""Methods by name: the files of this folder, and modules that other distributions register as entry points.

A method is a module with a frozen dataclass `Config`, whose field `steps` is how many iterations it runs by default,
and a generator `train(task, cfg)` whose loop is the paper's pseudo-code. It yields `Progress` for the initial policy,
then after every iteration. Another distribution registers a method in its pyproject.toml:

    [project.entry-points."aihf_control.methods"]
    my_method = "my_package.my_method"
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from aihf_control.core.errors import BadInput

FOLDER, PACKAGE, GROUP = Path(__file__).parent, "aihf_control.methods", "aihf_control.methods"
_temporary: dict[str, ModuleType] = {}


def names() -> list[str]:
    """List the names of all methods, those of other distributions included."""
    return sorted({*list_own_names(), *find_plugins(), *_temporary})


def list_own_names() -> list[str]:
    """List the names of this package's methods."""
    return sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.name != "registry")


@functools.cache
def find_plugins() -> dict[str, EntryPoint]:
    """Find the methods of other distributions. Raises BadInput for a name already in use."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in list_own_names() or entry.name in found:
            taken = "this package" if entry.name in list_own_names() else f"{found[entry.name].value}"
            raise BadInput(
                f"method {entry.name!r} of {entry.value} has the name of one of {taken}; rename or uninstall it"
            )
        found[entry.name] = entry
    return found


def load(name: str) -> ModuleType:
    """Import the module of a method. Raises BadInput for an unknown name, and for a plug-in that is not a method."""
    if name in _temporary:
        return _temporary[name]
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3)
        near.sort(key=lambda known: sorted(known) != sorted(name))  # letters that are only swapped come first
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"unknown method {name!r}; {hint}known are {', '.join(names())}")
    if name not in find_plugins():
        return importlib.import_module(f"{PACKAGE}.{name}")
    module = find_plugins()[name].load()
    if not (isinstance(module, ModuleType) and hasattr(module, "Config") and hasattr(module, "train")):
        raise BadInput(f"method {name!r} ({find_plugins()[name].value}) must be a module with Config and train")
    return module


def list_plugin_files(name: str) -> list[Path]:
    """List the source files of a plug-in: all of its package, or its module; none for this package's methods."""
    if name not in find_plugins():
        return []
    path = Path(load(name).__file__ or "")
    return sorted(path.parent.rglob("*.py")) if "." in find_plugins()[name].module else [path]


@contextlib.contextmanager
def register_temporarily(name: str, module: ModuleType) -> Iterator[None]:
    """Register a module as a method inside the block; used by `aihf_control.testing`."""
    _temporary[name] = module
    try:
        yield
    finally:
        del _temporary[name]
