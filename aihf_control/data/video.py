"""Clips as moving pictures, headless: the two of a comparison side by side, the preferred one on the left.

What makes MuJoCo's pictures slow without a graphics card is left out: shadows, reflections, multisampling (measured
ten times as slow). mp4 needs `pip install 'aihf_control[video]'`; gif needs nothing more.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.data.dataset import Dataset, references
from aihf_control.data.ties import ties
from aihf_control.environments.camera import PER_SECOND, Camera
from aihf_control.environments.gym import spec_of

Array = np.ndarray


BAR = 20  # height of a caption in pixels
SHORT = 2.0  # seconds; a clip of less is slowed down to every state the simulator has, a longer one runs in real time


def film(dataset: Dataset, row: int, path: Path) -> int:
    """Writes the comparison of this row of preferences.csv (from 0) as FILE.mp4 or FILE.gif; returns its frames.

    Raises BadInput where there is no such row, or nothing to draw with.
    """
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise BadInput(f"--out {path}: give a name that ends in .mp4 or .gif")
    if path.suffix.lower() == ".mp4":
        _av()  # says now what is lacking
    if not 0 <= row < len(dataset.pairs):
        raise BadInput(f"--render {row}: the dataset has {len(dataset.pairs)} comparisons, numbered from 0")
    rows = dataset.pairs.iloc[[row]]
    with Camera(spec_of(dataset.meta["env"], **dataset.meta["options"])) as camera:
        slow = rows["length"].item() / camera.rate < SHORT
        every = 1 if slow else max(1, round(camera.rate / PER_SECOND))
        word = "tied with" if ties(dataset.pairs)[row] else "preferred to"
        sides = [
            _side(camera, dataset, references(rows, side)[0], every, said)
            for side, said in (("win", f" {word}"), ("lose", ""))
        ]
    frames = [np.hstack(both) for both in zip(*sides, strict=True)]
    encode = _mp4 if path.suffix.lower() == ".mp4" else _gif
    write_bytes(path, encode(frames, PER_SECOND if slow else camera.rate / every))
    return len(frames)


def _side(camera: Camera, dataset: Dataset, clip: tuple[int, int, int], every: int, said: str) -> list[Array]:
    (episode, start, length), t = clip, dataset.pool[clip[0]]
    text = f"{t.level}, episode {episode} from {start}: {t.return_of(start, length):.1f}{said}"
    return [_captioned(frame, text) for frame in camera.clip(t, start, length, every)]


def _captioned(frame: Array, text: str) -> Array:
    bar = Image.new("RGB", (frame.shape[1], BAR), "white")
    ImageDraw.Draw(bar).text((4, 4), text, fill="black")
    return np.vstack([np.asarray(bar), frame])


def _gif(frames: list[Array], rate: float) -> bytes:
    first, *others = [Image.fromarray(frame) for frame in frames]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
    return out.getvalue()


def _mp4(frames: list[Array], rate: float) -> bytes:
    av = _av()
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        fps = Fraction(rate).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _av() -> Any:
    try:
        import av
    except ImportError as e:
        raise BadInput(f"{e}; mp4 needs: pip install 'aihf_control[video]' (gif does not)") from e
    return av
