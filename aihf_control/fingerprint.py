"""What a run's numbers come from, as hashes: the code that it executes.

Only the modules that training imports count (not the report, not the bench, not the other methods), and of them neither
comments nor docstrings nor layout: whoever words a docstring better need not run a benchmark anew. The C file beside a
module counts with it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from aihf_control.files import read_bytes, sha256

PACKAGE = Path(__file__).parent
ROOTS = ("cell", "generate")  # what trains, and what makes the data


def code_of(method: str) -> str:
    """Short hash of the package's code that a run of a method executes."""
    todo, seen = [*ROOTS, f"methods.{method}"], {}
    while todo:
        name = todo.pop()
        if name not in seen:
            seen[name], imported = _module(name)
            todo += imported
    return sha256("\n".join(f"{name} {seen[name]}" for name in sorted(seen)).encode())[:8]


@functools.cache
def whole_package() -> str:
    """Short hash of all its code."""
    names = sorted(".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py"))
    return sha256("\n".join(_module(name)[0] for name in names).encode())[:8]


@functools.cache
def _module(name: str) -> tuple[str, tuple[str, ...]]:
    """A module's hash, and the modules of this package that it imports."""
    tree = ast.parse(read_bytes(_path(name)))
    tree.body = [part for part in tree.body if not isinstance(part, ast.If)]  # what a module does as a command
    imported = tuple(_imports(tree))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_docstring(part)]  # type: ignore[attr-defined]
    beside = _path(name).with_suffix(".c")  # the C that it compiles
    return sha256(ast.unparse(tree).encode() + (read_bytes(beside) if beside.exists() else b"")), imported


def _path(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE.name}."):
            yield str(node.module).partition(".")[2]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
