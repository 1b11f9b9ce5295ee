"""Strict decoding of settings from TOML and JSON, and the flags that reproduce them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import parse_toml, read_bytes

TOML_BYTES = 2**20
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", Path: "a path"}
PLAIN |= {dict: "a table"}


CHANGES_NO_NUMBER = frozenset(
    {"out", "folder", "resume", "dataset", "checkpoint", "tensorboard", "wandb", "step_timeout", "reuse"}
)
"""Flags that change no number of a run; a dataset is compared by its digest, not by its folder."""
OF_PEOPLE = frozenset({"annotator", "annotators", "wait", "port"})
"""Flags of the people who annotate a run; a grid has none."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises BadInput if it cannot be read or is not valid."""
    return parse_toml(read_bytes(path, TOML_BYTES), str(path))


def check_known(names: Collection[str], known: Collection[str], where: str) -> None:
    """Check that all names are known. Raises BadInput for the first that is not, with the nearest known name."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"{where}: unknown key {name!r}; {hint}known are {', '.join(known)}")


def table_of(value: Any, where: str) -> dict[str, Any]:
    """Return the value if it is a table. Raises BadInput if it is not."""
    return convert(dict, value, where)


def override(config: Any, table: Any, where: str) -> Any:
    """Return a config with the fields of a (nested) table replaced. Raises BadInput if a field does not fit."""
    hints = typing.get_type_hints(type(config))
    check_known(table_of(table, where), list(hints), where)
    changed = {}
    for name, value in table.items():
        now, here = getattr(config, name), f"{where}.{name}"
        if dataclasses.is_dataclass(now):
            changed[name] = value if isinstance(value, type(now)) else override(now, value, here)
        else:
            changed[name] = convert(hints[name], value, here)
    with prefix_errors(where):
        return dataclasses.replace(config, **changed)


def rebuild(kind: Any, tree: Any, where: Path) -> Any:
    """Decode settings that config.json in the folder `where` stores, all fields of them. Raises BadInput."""
    try:
        return convert(kind, tree, f"{where}/config.json")
    except BadInput as e:
        raise BadInput(f"{e}; the file is damaged, or of another version") from e


def convert(kind: Any, value: Any, where: str) -> Any:
    """Decode a value of the type `kind`: a list becomes a tuple, a table a dataclass, "inf" a float.

    Raises BadInput with the place in the file if the value does not fit, or if a table lacks a field of its dataclass.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (value is None and type(None) in args):
        return value
    if dataclasses.is_dataclass(kind):
        hints, table = typing.get_type_hints(kind), table_of(value, where)
        check_known(table, list(hints), where)
        if lacking := hints.keys() - table.keys():
            raise BadInput(f"{where} lacks {', '.join(sorted(lacking))}")
        fields = {name: convert(hint, table[name], f"{where}.{name}") for name, hint in hints.items()}
        with prefix_errors(where):
            return kind(**fields)  # type: ignore[operator]
    if origin in (types.UnionType, typing.Union):
        return convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(convert(args[0], x, f"{where}[{i}]") for i, x in enumerate(value))
    if kind is float and (type(value) is int or value in ("inf", "-inf", "nan")):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is kind or (origin is typing.Literal and any(type(value) is type(x) and value == x for x in args)):
        return value
    raise BadInput(f"{where} = {reprlib.repr(value)}: give {describe_type(kind)}")


@contextlib.contextmanager
def prefix_errors(where: str) -> Iterator[None]:
    """Prefix the message of BadInput inside the block with a place."""
    try:
        yield
    except BadInput as e:
        raise BadInput(f"{where}: {e}") from e


def describe_type(kind: Any) -> str:
    """Describe a type in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return f"a list, each of it {describe_type(args[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    return PLAIN.get(kind, str(kind))


def as_word(value: Any) -> Any:
    """Return the value of a swept factor as one string or number."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def jsonable(tree: Any) -> Any:
    """Return a tree with strings in place of numbers that are not finite, which JSON cannot represent."""
    if isinstance(tree, dict):
        return {name: jsonable(x) for name, x in tree.items()}
    if isinstance(tree, list | tuple):
        return [jsonable(x) for x in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def flags(config: Any, default: Any, prefix: str = "") -> list[str]:
    """Return the command-line flags that turn the config `default` into `config`."""
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
