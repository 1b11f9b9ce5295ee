"""The two levels of help: `--help` shows the settings that most people need, `--help-all` shows all."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

ALL = "--help-all"
HELP = ("-h", "--help")

_in_use = False  # whether a command chooses the level already: `aihf run` runs inside `aihf`


def rare(default: Any) -> Any:
    """Return a field of a dataclass of settings that only `--help-all` shows."""
    return dataclasses.field(default=default, metadata={"rare": True})


@contextlib.contextmanager
def help_level(argv: list[str]) -> Iterator[list[str]]:
    """Yield a command's arguments with `--help` for `--help-all`. Inside the context tyro prints the level asked for.

    Short help leaves out fields that are `rare`, and settings that are grouped in a dataclass of their own.
    """
    global _in_use
    short = any(word in HELP for word in argv) and ALL not in argv
    if _in_use or not (short or ALL in argv):
        yield argv
        return
    _in_use, rules = True, _ShortHelp()
    try:
        with rules.registry if short else contextlib.nullcontext():
            yield ["--help" if word == ALL else word for word in argv]
    finally:
        _in_use = False
        if rules.n_hidden:
            print(f"{ALL} shows the other settings, too")


class _ShortHelp:
    """Rules by which tyro reads dataclasses of settings for short help."""

    def __init__(self) -> None:
        self.n_hidden = 0
        self.registry = ConstructorRegistry()
        self.registry.struct_rule(self.read)

    def read(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        """Return the fields of a dataclass, of which some are hidden; None for other types, which tyro reads."""
        kind: Any = info.type
        if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or kind.__module__.startswith("tyro"):
            return None
        hints, docs = typing.get_type_hints(kind, include_extras=True), docs_of(kind)
        fields = []
        for f in dataclasses.fields(kind):
            default = getattr(info.default, f.name) if isinstance(info.default, kind) else _default_of(f)
            hidden = "rare" in f.metadata or dataclasses.is_dataclass(default)
            self.n_hidden += hidden
            hint: Any = Annotated[hints[f.name], tyro.conf.Suppress] if hidden else hints[f.name]  # pyright: ignore[reportInvalidTypeForm]
            fields.append(StructFieldSpec(f.name, hint, default, docs.get(f.name)))
        return StructConstructorSpec(kind, tuple(fields))


def _default_of(f: dataclasses.Field) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return tyro.MISSING if f.default is dataclasses.MISSING else f.default


def docs_of(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and its bases, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docs[field.target.id] = " ".join(str(getattr(text.value, "value", "")).split())
    return docs
