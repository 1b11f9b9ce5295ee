"""The background process, which chooses the next questions and renders their clips.

It ends with the process that started it. The only thing that the two share is the folder of the answers.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.data.video import import_av
from aihf_control.environments import watchdog
from aihf_control.environments.camera import Camera
from aihf_control.environments.modules import set_allowed_modules
from aihf_control.label.clip_folder import ClipFolder
from aihf_control.label.clips import SegmentSource, render_clip
from aihf_control.label.process import CLIPS, READY, Work
from aihf_control.label.store import Store

IDLE = 0.1  # seconds between two looks for work


def render_next(store: Store, clips: ClipFolder, source: SegmentSource, camera: Camera | None) -> bool:
    """Render the clip that is needed next; return whether there was one. A clip that cannot be drawn is marked."""
    due = next((clip for clip in _wanted(store) if not clips.has(clip)), None)
    if due is None:
        return False
    try:
        render_clip(clips.path(due), source.segment(due, store.source(due)), camera)
    except BadInput as e:
        store.add_fault(due, str(e))
    return True


def _wanted(store: Store) -> Iterator[str]:
    """Yield the clips of open questions, then those of answered ones, whose films may have been removed."""
    yield from store.next_clips()
    yield from store.answered_clips()


def run_background(folder: Path, work: Work, connection: Any, modules: tuple[str, ...], clock: Any) -> None:
    """Choose and render until the parent process ends. Sends READY, or the message of what makes it impossible."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    set_allowed_modules(modules)
    watchdog.share_clock(clock)
    parent = mp.parent_process()
    assert parent is not None
    try:
        import_av()
        clips = ClipFolder(folder / CLIPS)
        with contextlib.closing(Store(folder)) as store:
            spec, drawn, source = work.open(store)
            with Camera(spec) if drawn else contextlib.nullcontext() as camera:
                source.choose()
                connection.send(READY)
                while parent.is_alive():
                    chosen = source.choose()
                    if not render_next(store, clips, source, camera) and not chosen:
                        time.sleep(IDLE)
    except BadInput as e:
        connection.send(str(e))
