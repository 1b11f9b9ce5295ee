"""A store with questions about clips of a single grey picture, which need no simulator."""

from pathlib import Path

import numpy as np
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.data.video import encode_mp4
from aihf_control.environments.camera import Camera
from aihf_control.environments.gym import spec_of
from aihf_control.label.process import CLIPS
from aihf_control.label.schema import Draft
from aihf_control.label.store import Store


def clip_id(n: int) -> str:
    return f"{n:032x}"


def add_clips(store: Store, numbers: range) -> None:
    store.add_clips({clip_id(n): {"episode": n, "start": 0, "length": 10} for n in numbers})


def add_plain_questions(store: Store, annotator: int, n: int, first: int = 0) -> list[int]:
    """Add questions 2k against 2k + 1, the first one on the left in every other one."""
    add_clips(store, range(first, first + 2 * n))
    drafts = [
        Draft(clip_id(first + 2 * k), clip_id(first + 2 * k + 1), "second" if k % 2 else "first", "new", "uniform")
        for k in range(n)
    ]
    return store.add_questions(annotator, drafts)


def write_clips(store: Store) -> None:
    """Write a film of two pictures for every clip of a store."""
    pytest.importorskip("av")
    film = encode_mp4([np.full((48, 64, 3), grey, np.uint8) for grey in (90, 180)], 10)
    folder = store.folder / CLIPS
    folder.mkdir(exist_ok=True)
    for clip in store.sources():
        (folder / f"{clip}.mp4").write_bytes(film)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "labels")
    store.add_annotators(["ann", "bob"])
    return store


@pytest.fixture(scope="module")
def can_render():
    try:
        Camera(spec_of("Hopper-v4")).__exit__()
    except BadInput as e:
        pytest.skip(f"this machine cannot render: {e}")
