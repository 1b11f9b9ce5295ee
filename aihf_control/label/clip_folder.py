"""The folder that caches the clips."""

from __future__ import annotations

from pathlib import Path


class ClipFolder:
    """The mp4 files of clips, each named by its id."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, clip: str) -> Path:
        """Return the file of a clip. The id has to be one that is stored."""
        return self.folder / f"{clip}.mp4"

    def has(self, clip: str) -> bool:
        """Return whether a clip was rendered, and not removed since."""
        return self.path(clip).is_file()
