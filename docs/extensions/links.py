"""Links of pages to files outside `docs/`: to the page that shows the file, or to a copy of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
SHOWN = {
    "README.md": "index.md",
    "docs/README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/README.md": "experiments.md",
    "results/README.md": "results.md",
}
"""Files that a page of the site shows, relative to the repository."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def rebase(text: str, old: Path, new: Path) -> str:
    """Return Markdown whose relative links are from the folder `new` instead of `old`, and lead into the site."""
    return LINK.sub(lambda link: _rebased(link, old, new), text)


def _rebased(link: re.Match, old: Path, new: Path) -> str:
    image, label, target, anchor = link[1], link[2], link[3], link[4] or ""
    path = Path(os.path.normpath(old / target))
    if ":" in target or not path.exists():
        return link[0]
    path = DOCS / SHOWN.get(str(path.relative_to(DOCS.parent)), path)
    relative = os.path.relpath(path, new)
    if image or (DOCS in path.parents and path.suffix == ".md"):
        return f"{image}[{label}]({relative}{anchor})"
    plain = label.replace("`", "")
    return f"`{plain}`" if path.is_dir() else f"{{download}}`{plain} <{relative}>`"
