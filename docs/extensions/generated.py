"""Parts of pages that are read from the package and from `results/` when the site is built.

A fenced block ```{NAME} ARGUMENT is replaced by Markdown before the page is parsed. Its body is for those who read
the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import parts
from links import rebase
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
BLOCK = re.compile(r"^```\{([\w-]+)\} ?(.*)\n(?:(?!```).*\n)*?```$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def on_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the generated parts of a page, and its links to files outside `docs/`."""
    page = DOCS / f"{docname}.md"
    text = BLOCK.sub(partial(replace, page), source[0])
    source[0] = rebase(text, page.parent, page.parent)


def replace(page: Path, block: re.Match) -> str:
    """Return the Markdown for a fenced block, or the block itself if it is not generated."""
    name, argument = block[1], block[2].strip()
    if name == "file":
        path = (page.parent / argument).resolve()
        return rebase(path.read_text(), path.parent, page.parent)
    return PARTS[name](argument) if name in PARTS else block[0]


PARTS: dict[str, Callable[[str], str]] = {
    "method-page": parts.method_page,
    "method-list": parts.method_list,
    "shared-settings": parts.shared_settings,
    "names": parts.names,
    "public-names": parts.public_names,
    "scores": parts.scores,
}
