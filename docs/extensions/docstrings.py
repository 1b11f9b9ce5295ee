"""Docstrings, which are plain text with `code` and indented blocks, as reStructuredText for autodoc."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

CODE = re.compile(r"`([^`]+)`")
MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?=\W|$))")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", on_docstring, priority=100)  # before napoleon's
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def on_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert the lines of a docstring in place."""
    lines[:] = convert("\n".join(lines)).splitlines()


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
