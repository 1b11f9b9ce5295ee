"""Docstrings, which are plain text with `code` and indented blocks, as reStructuredText for autodoc."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?=\W|$))")


VALUES = ("attribute", "data", "property")
_of_values: dict[str, list[str]] = {}


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert the lines of a docstring in place."""
    lines[:] = convert("\n".join(lines)).splitlines()
    if what in VALUES:
        _of_values[name] = list(lines)


def after_napoleon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Restore the docstring of a value, of which napoleon takes the words before a colon for a type."""
    if what in VALUES:
        lines[:] = _of_values.pop(name)


def convert(text: str) -> str:
    """Return reStructuredText in which `code`, indented blocks and sections such as "Args:" have a meaning."""
    paragraphs = re.split(r"\n{2,}", text)
    for i, paragraph in enumerate(paragraphs):
        if paragraph.startswith("    ") and i:  # an indented block
            paragraphs[i] = f"::\n\n{paragraph}"
        else:
            paragraphs[i] = "".join(_inline(part) for part in re.split(r"(`[^`]+`)", paragraph))
    return "\n\n".join(paragraphs) + "\n"


def _inline(part: str) -> str:
    return CODE.sub(r"``\1``", part) if part.startswith("`") else MARKUP.sub(r"\\\1", part)
