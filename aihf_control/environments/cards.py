"""Cards of environments (reference returns) and the policies bundled with them."""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
from hashlib import sha256
from pathlib import Path

from aihf_control.core.config import read_toml
from aihf_control.core.errors import BadInput

LEVELS = ("expert", "medium", "weak")
MAX_NAME = 120  # characters of a folder name; file systems allow 255 bytes


@dataclasses.dataclass(frozen=True)
class Card:
    """Reference returns of an environment (`envs/<id>/card.toml`) and the folder of its bundled policies.

    `policies_of` is the id of the environment whose policies are used here, too, if that is another one.
    """

    folder: Path
    policies_of: str | None = None
    random_return: float | None = None
    expert_return: float | None = None
    medium_return: float | None = None
    weak_return: float | None = None

    def policies(self) -> dict[str, Path]:
        """Return the bundled SB3 zips by level, best first: {"expert": ..., "medium": ..., ...}."""
        folder = self.folder.parent / folder_name(self.policies_of) if self.policies_of else self.folder
        return {level: folder / f"{level}.zip" for level in LEVELS if (folder / f"{level}.zip").is_file()}


def folder_name(env_id: str) -> str:
    """Return the id as the name of one folder: "/" and ":" become "__", and it is never hidden, empty or too long."""
    name = re.sub(r"[^A-Za-z0-9_.+-]", "__", env_id)
    if not name.strip(".") or name.startswith(".") or len(name) > MAX_NAME:
        name = f"{name.lstrip('.')[:MAX_NAME]}__{sha256(env_id.encode(errors='replace')).hexdigest()[:12]}"
    return name


def envs_folder() -> Path:
    """Return the folder of cards and bundled policies: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "_envs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "envs"


def card_of(env_id: str, folder: Path | None = None) -> Card | None:
    """Return the card of an environment, bundled or in `folder`, or None. Raises BadInput if it is not valid."""
    folder = folder or envs_folder() / folder_name(env_id)
    path = folder / "card.toml"
    if not path.is_file():
        return None
    fields = read_toml(path)
    known = {f.name for f in dataclasses.fields(Card)} - {"folder"}
    if unknown := fields.keys() - known:
        raise BadInput(f"{path} has unknown keys: {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    for name, value in fields.items():
        if name == "policies_of":
            if type(value) is not str:
                raise BadInput(f"{path}: {name} must be an environment id, got {reprlib.repr(value)}")
        elif type(value) not in (int, float) or not math.isfinite(value):
            raise BadInput(f"{path}: {name} must be a finite number, got {reprlib.repr(value)}")
    return Card(folder, **fields)


def bundled_versions(env_id: str) -> list[str]:
    """Return the ids of the other versions of an environment that have a card."""
    name, _, version = env_id.rpartition("-v")
    if not version.isdecimal():
        return []
    return sorted(path.parent.name for path in envs_folder().glob(f"{folder_name(name)}-v*/card.toml"))
