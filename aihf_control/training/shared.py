"""A folder in which runs on the same data share clones and fitted rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.core.files import writing
from aihf_control.core.provenance import versions
from aihf_control.data.dataset import Dataset
from aihf_control.learning.reuse import hash_of
from aihf_control.models import kernel_library
from aihf_control.training.trees import read_tree, write_tree


class SharedFolder:
    """States in files, each named by a hash of its key and of what all results depend on.

    That is the data, each lane's share of it, the device, the type of products, and the versions of the libraries. The
    code is not in it, so one folder is for one version of this package.
    """

    def __init__(self, folder: Path, dataset: Dataset, seeds: tuple[int, ...], sizes: tuple[int, int], computed: tuple):
        self.folder = folder
        self.about = [dataset.digest(), seeds, sizes, computed, kernel_library.state(computed[1]), versions()]

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a state, or None if it is not there or its file is damaged: it is then computed and written anew."""
        path = self._path(key)
        try:
            return read_tree(path) if path.is_file() else None
        except BadInput:
            return None

    def put(self, key: str, state: dict[str, Any]) -> None:
        """Write a state. Raises BadInput if that is not possible."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_tree(self._path(key), state)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hash_of(key, self.about)[:40]}.state"
