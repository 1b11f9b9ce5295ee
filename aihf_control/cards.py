"""The cards of environments, and the policies that are bundled with them."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from aihf_control.files import BadInput


@dataclasses.dataclass(frozen=True)
class Card:
    """What the code cannot know of an environment (`envs/<id>/card.toml`): greedy returns, where its policies are."""

    folder: Path
    random_return: float | None = None
    expert_return: float | None = None
    medium_return: float | None = None
    weak_return: float | None = None

    def policies(self) -> dict[str, Path]:
        """The bundled SB3 zips by level, best first: {"expert": ..., "medium": ..., ...}."""
        return {level: self.folder / f"{level}.zip" for level in LEVELS if (self.folder / f"{level}.zip").is_file()}


LEVELS = ("expert", "medium", "weak")


def envs_folder() -> Path:
    """Where the cards and bundled policies are: in the wheel inside the package, in a checkout beside it."""
    inside = Path(__file__).parent / "_envs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "envs"


def card_of(env_id: str, folder: Path | None = None) -> Card | None:
    """The card of an environment, in `folder` or among the bundled ones; None where there is none."""
    folder = folder or envs_folder() / env_id.replace("/", "__").replace(":", "__")
    path = folder / "card.toml"
    if not path.is_file():
        return None
    try:
        fields = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as e:
        raise BadInput(f"{path} is not valid TOML: {e}") from e
    unknown = fields.keys() - {f.name for f in dataclasses.fields(Card)}
    if unknown:
        raise BadInput(f"{path} has unknown keys: {', '.join(sorted(unknown))}")
    return Card(folder, **fields)
