"""Settings out of TOML, taken strictly: an unknown key is refused with the nearest known one, a wrong type too."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import read_bytes, replace_nonfinite


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"{path} is not valid TOML: {e}") from e


def check_known(names: Collection[str], known: Collection[str], where: str) -> None:
    """Raises BadInput for a name that is not known, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"{where}: unknown key {name!r}; {hint}known are {', '.join(known)}")


def table_of(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a table. Raises BadInput."""
    if not isinstance(value, dict):
        raise BadInput(f"{where} = {value!r}: give a table, [{where.rpartition(', ')[2]}]")
    return value


def convert(kind: Any, value: Any, where: str) -> Any:
    """A value of a type out of what TOML says, lists as tuples. Raises BadInput where the two do not fit."""
    try:
        return rebuild(kind, value, Path())
    except BadInput as e:
        raise BadInput(f"{where} = {value!r}: give {describe_type(kind)}") from e


def override(config: Any, table: Any, where: str) -> Any:
    """A config with the fields that a table names set, those of nested configs by nested tables. Raises BadInput."""
    hints = typing.get_type_hints(type(config))
    check_known(table_of(table, where), list(hints), where)
    changed = {}
    for name, value in table.items():
        now, here = getattr(config, name), f"{where}.{name}"
        changed[name] = (
            override(now, value, here) if dataclasses.is_dataclass(now) else convert(hints[name], value, here)
        )
    try:
        return dataclasses.replace(config, **changed)
    except BadInput as e:  # what the config itself has against it
        raise BadInput(f"{where}: {e}") from e


def describe_type(kind: Any) -> str:
    """A type in words."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in plain:
        return plain[kind]
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return f"a list, each of it {describe_type(args[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    return getattr(kind, "__name__", str(kind))


def as_word(value: Any) -> Any:
    """A dial's value as one word or number."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def jsonable(tree: Any) -> Any:
    """The same with words for the numbers for which JSON has none."""
    if isinstance(tree, dict):
        return {name: jsonable(x) for name, x in tree.items()}
    if isinstance(tree, list | tuple):
        return [jsonable(x) for x in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def rebuild(kind: Any, tree: Any, where: Path) -> Any:
    """A value of a type out of what JSON kept of it. Raises BadInput where the two do not fit."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(tree, dict) or set(tree) != set(hints):
            raise BadInput(
                f"{where}/config.json does not fit this version's settings ({getattr(kind, '__name__', kind)})"
            )
        return kind(**{name: rebuild(hint, tree[name], where) for name, hint in hints.items()})  # type: ignore[operator]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        fitting = type(None) if tree is None else next(a for a in args if a is not type(None))
        return None if fitting is type(None) and type(None) in args else rebuild(fitting, tree, where)
    if origin is tuple and isinstance(tree, list):
        return tuple(rebuild(args[0], x, where) for x in tree)
    if origin is typing.Literal and tree in args:
        return tree
    if kind is Path and isinstance(tree, str):
        return Path(tree)
    if kind is float and tree in ("inf", "-inf", "nan"):
        return float(tree)
    if kind is float and isinstance(tree, int | float) and not isinstance(tree, bool):
        return float(tree)
    if kind in (bool, int, str) and type(tree) is kind:
        return tree
    raise BadInput(f"{where}/config.json: {replace_nonfinite(tree)!r} is not what this version's settings hold there")


def flags(config: Any, default: Any, prefix: str = "") -> list[str]:
    """The flags that make a config out of its default."""
    words: list[str] = []
    for field in dataclasses.fields(config):
        name, value, usual = field.name.replace("_", "-"), getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            words += flags(value, usual, f"{prefix}{name}.")
        elif value != usual and isinstance(value, bool):
            words.append(f"--{prefix}{'' if value else 'no-'}{name}")
        elif value != usual:
            words += [f"--{prefix}{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words
