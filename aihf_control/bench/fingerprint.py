"""Hash of the code that a run executes, by which the bench finds cells that other code made.

Only modules that training imports count (not the report, not the bench, not the other methods), and of them neither
comments nor docstrings nor layout: rewording a docstring does not make cells run again. C sources beside a module
count with it.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import grimp

from aihf_control.core.files import read_bytes, sha256
from aihf_control.methods import registry

PACKAGE = "aihf_control"
ROOTS = (f"{PACKAGE}.training.run", f"{PACKAGE}.data.generate")  # training, and making the data


def code_of(method: str) -> str:
    """Return a short hash of the package's code that a run of `method` executes."""
    plugin = registry.list_plugin_files(method)
    # the import graph has no plug-ins, so a plug-in counts with all that a method can be built from
    own = imports().find_descendants(f"{PACKAGE}.learning") if plugin else {f"{PACKAGE}.methods.{method}"}
    roots = {*ROOTS, *own}
    modules = roots.union(*(imports().find_upstream_modules(root) for root in roots))
    return _hash([*map(file_of, sorted(modules)), *plugin])


def whole_package() -> str:
    """Return a short hash of all code of the package."""
    return _hash([file_of(name) for name in sorted(imports().modules)])


@functools.cache
def imports() -> grimp.ImportGraph:
    """Build the graph of the package's imports, without those for type checkers alone."""
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def _hash(files: list[Path]) -> str:
    """Hash files with their names; the package's own by their place in it."""
    root = Path(__file__).parents[1]
    names = [str(p.relative_to(root)) if p.is_relative_to(root) else p.name for p in files]
    return sha256("\n".join(f"{name} {module_hash(p)}" for name, p in zip(names, files, strict=True)).encode())[:8]


def file_of(module: str) -> Path:
    """Return the file of a module of the package."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def module_hash(path: Path) -> str:
    """Hash a file's code without comments, docstrings and layout, and the C sources beside it."""
    tree = ast.parse(read_bytes(path))
    tree.body = [part for part in tree.body if not isinstance(part, ast.If)]  # a command's `if __name__ == "__main__"`
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_docstring(part)]  # type: ignore[attr-defined]
    beside = sorted([*path.parent.glob("*.c"), *path.parent.glob("*.h")]) if path.with_suffix(".c").exists() else []
    return sha256(ast.unparse(tree).encode() + b"".join(map(read_bytes, beside)))


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
