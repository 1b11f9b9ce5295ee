"""Placeholders for packages that take seconds to import, so that `--help` does not wait for them.

Flags are the fields of dataclasses, whose modules also import torch and Gymnasium. While help is printed, a placeholder
stands for each such package: it has every attribute, and can be called, subclassed and subscripted. Sphinx's
`autodoc_mock_imports` is built the same way.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, ClassVar

SLOW = {"gymnasium", "matplotlib", "mujoco", "pandas", "safetensors", "scipy", "stable_baselines3", "torch"}

METHODS = "aihf_control.methods"  # entry points of plug-in methods


class Placeholder(ModuleType):
    """A module, class or function that does nothing."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith("__"):  # Python asks for these to learn what an object is
            raise AttributeError(name)
        return Placeholder(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function that is decorated, or a placeholder."""
        decorates = len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], Placeholder)
        return args[0] if decorates else Placeholder(self.__name__)

    def __getitem__(self, item: Any) -> Placeholder:
        return Placeholder(self.__name__)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[()]:
        return ()  # a subclass has `object` in its place


class PlaceholderImporter(MetaPathFinder, Loader):
    """Imports a placeholder for each package of `SLOW` and its modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how to import a module of `SLOW`, and None for others."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in SLOW else None

    def create_module(self, spec: ModuleSpec) -> Placeholder:
        """Return the placeholder."""
        return Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


def install_for_help(argv: list[str]) -> None:
    """Import placeholders from here on if a command's arguments ask for help, after which its process ends.

    Not where a plug-in method is named, or a run that may have used one: its module may do more than define things.
    """
    words = {part for word in argv for part in word.split("=", 1)}
    if {"-h", "--help", "--help-all"} & words and not ({"--resume", *entry_points(group=METHODS).names} & words):
        sys.meta_path.insert(0, PlaceholderImporter())


def install_for_module(line: list[str]) -> None:
    """Do the same for the command line of a process: `python -m aihf_control.COMMAND ... --help`."""
    at = line.index("-m")
    if line[at + 1 : at + 2] and line[at + 1].partition(".")[0] == "aihf_control":
        install_for_help(line[at + 2 :])
