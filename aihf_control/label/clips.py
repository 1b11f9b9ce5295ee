"""Clips as mp4 files: their ids, by content, and their pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.core.types import Trajectory
from aihf_control.data.arrays import read_npz
from aihf_control.data.video import encode_mp4, frame_rate
from aihf_control.environments.camera import Camera
from aihf_control.environments.gym import EnvSpec

Array = np.ndarray
RENDERING = 1  # version of the pictures; increase it when they change
FRAMES_PER_SECOND = 25  # of frames that a user gave
MAX_EDGE = 1024  # pixels of such a frame


@dataclasses.dataclass(frozen=True)
class Segment:
    """A segment of an episode, and the frames of the episode if they were recorded."""

    episode: Trajectory
    start: int
    length: int
    frames: Array | None = None
    """(T or T + 1, H, W, 3) uint8."""

    def digest(self, spec: EnvSpec) -> str:
        """Return the id of the segment's clip: a hash of all that decides its pictures, 32 hexadecimal digits."""
        t, stop = self.episode, min(self.start + self.length, len(self.episode))
        head = {"version": RENDERING, "env": spec.id, "options": spec.options, "length": self.length}
        parts = [json.dumps(head, sort_keys=True, default=str).encode()]
        if self.frames is not None:
            parts.append(self.frames[self.start : stop + 1].tobytes())
        elif t.qpos is not None and t.qvel is not None:
            parts += [x[self.start : stop + 1].tobytes() for x in (t.qpos, t.qvel)]
        else:
            parts += [f"{t.seed} {self.start}".encode(), t.act[:stop].tobytes()]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:32]


class SegmentSource(Protocol):
    """A source of questions and of the segments of their clips: a dataset, or a run."""

    def segment(self, clip: str, source: Any) -> Segment:
        """Return the segment of a clip that the stored `source` describes. Raises BadInput if it is not there."""
        ...

    def choose(self) -> bool:
        """Store the next questions, if any are due; return whether there were some."""
        ...


def render_clip(path: Path, segment: Segment, camera: Camera | None) -> None:
    """Write a clip as mp4. Raises BadInput if it cannot be drawn."""
    if segment.frames is not None:
        frames, rate = list(_recorded(segment)), float(FRAMES_PER_SECOND)
    elif camera is not None:
        every, rate = frame_rate(camera, segment.length)
        frames = list(camera.clip(segment.episode, segment.start, segment.length, every))
    else:
        raise BadInput("there is neither a camera nor a frame to draw a clip")
    write_bytes(path, encode_mp4(frames, rate))


def _recorded(segment: Segment) -> Iterator[Array]:
    """Yield the recorded frames of a segment; after the end of the episode the last one is repeated in grey."""
    assert segment.frames is not None
    shown = segment.frames[segment.start : segment.start + segment.length]
    height, width = (x - x % 2 for x in shown.shape[1:3])  # mp4 needs even sizes
    yield from shown[:, :height, :width]
    grey = np.repeat((shown[-1].mean(-1, keepdims=True) / 2).astype(np.uint8), 3, -1)[:height, :width]
    yield from [grey] * (segment.length - len(shown))


def read_frames(path: Path, pool: list[Trajectory]) -> list[Array]:
    """Read the column `frames` of an npz, a frame a step of all episodes in order; return those of each episode.

    Frames are (N, H, W, 3) uint8. With one more frame per episode the last ones are ignored. Raises BadInput.
    """
    frames = read_npz(path, names=("frames",)).get("frames")
    if frames is None or frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        found = "no column frames" if frames is None else f"frames {frames.shape} of {frames.dtype}"
        raise BadInput(f"--frames {path} has {found}; give frames (N, H, W, 3) of uint8, one a step")
    if not all(16 <= x <= MAX_EDGE for x in frames.shape[1:3]):
        raise BadInput(f"--frames {path}: {frames.shape[1:3]} pixels; give frames of 16 to {MAX_EDGE} pixels a side")
    lengths = np.array([len(t) for t in pool])
    for more in (0, 1):
        if len(frames) == (lengths + more).sum():
            return np.split(frames, np.cumsum(lengths + more)[:-1])
    raise BadInput(
        f"--frames {path} has {len(frames)} frames; the dataset's {len(pool)} episodes have {lengths.sum()} steps: "
        "give a frame for each step, in the order of the episodes"
    )


def check_drawable(episodes: list[Trajectory]) -> None:
    """Raise BadInput if some episode has neither simulator states nor the seed of its reset."""
    lacking = sum(t.qpos is None and t.seed < 0 for t in episodes)
    if lacking:
        raise BadInput(
            f"{lacking} of {len(episodes)} episodes cannot be drawn: they have neither simulator states nor the seed "
            "of their reset; import them from an npz with the columns qpos and qvel, or give recorded pictures with "
            "--frames FILE.npz"
        )
