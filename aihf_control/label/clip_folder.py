"""The folder that caches the clips."""

from __future__ import annotations

from pathlib import Path


class ClipFolder:
    """The mp4 files of clips, each named by its id."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._there: set[str] = set()

    def path(self, clip: str) -> Path:
        """Return the file of a clip. The id has to be one that is stored."""
        return self.folder / f"{clip}.mp4"

    def has(self, clip: str) -> bool:
        """Return whether a clip was rendered."""
        if clip not in self._there and self.path(clip).is_file():
            self._there.add(clip)
        return clip in self._there
