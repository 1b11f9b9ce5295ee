"""Videos of comparisons, rendered headless: both segments side by side, the preferred one on the left.

Shadows, reflections and multisampling are off: without a graphics card they take ten times as long (measured). mp4
needs `pip install 'aihf_control[video]'`; gif needs no extra.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_bytes
from aihf_control.data.dataset import Dataset
from aihf_control.data.pairs import references
from aihf_control.data.ties import find_ties
from aihf_control.environments.camera import PER_SECOND, Camera
from aihf_control.environments.gym import spec_of

Array = np.ndarray
CAPTION_HEIGHT = 20  # pixels
COLOURS = 64  # of a gif
SHORT = 2.0  # seconds; shorter segments show every simulator state in slow motion, longer ones run in real time


def render_comparison(dataset: Dataset, row: int, path: Path) -> int:
    """Write the comparison in this row of preferences.csv (from 0) as mp4 or gif; return the number of frames.

    Raises BadInput if the row does not exist or nothing can be rendered here.
    """
    encode = encoder_of(path)
    if not 0 <= row < len(dataset.pairs):
        raise BadInput(f"--render {row}: the dataset has {len(dataset.pairs)} comparisons, numbered from 0")
    rows = dataset.pairs.iloc[[row]]
    with Camera(spec_of(dataset.meta["env"], **dataset.meta["options"])) as camera:
        every, rate = frame_rate(camera, rows["length"].item())
        word = "tied with" if find_ties(dataset.pairs)[row] else "preferred to"
        sides = [
            _render_side(camera, dataset, references(rows, side)[0], every, suffix)
            for side, suffix in (("win", f" {word}"), ("lose", ""))
        ]
    frames = [np.hstack(both) for both in zip(*sides, strict=True)]
    write_bytes(path, encode(frames, rate))
    return len(frames)


def encoder_of(path: Path) -> Callable[[list[Array], float], bytes]:
    """Return the encoder of a film by the end of its name. Raises BadInput for other names, and without PyAV."""
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise BadInput(f"--out {path}: give a name that ends in .mp4 or .gif")
    if path.suffix.lower() == ".gif":
        return encode_gif
    import_av()  # fails before anything is rendered
    return encode_mp4


def frame_rate(camera: Camera, length: int) -> tuple[int, float]:
    """Return every how many steps of a segment are drawn, and the frames per second that they are shown at."""
    if length / camera.rate < SHORT:
        return 1, PER_SECOND
    every = max(1, round(camera.rate / PER_SECOND))
    return every, camera.rate / every


def _render_side(camera: Camera, dataset: Dataset, clip: tuple[int, int, int], every: int, suffix: str) -> list[Array]:
    """Render every `every`-th state of a segment, with a caption that ends with `suffix`."""
    (episode, start, length), t = clip, dataset.pool[clip[0]]
    text = f"{t.level}, episode {episode} from {start}: {t.return_of(start, length):.1f}{suffix}"
    return [add_caption(frame, text) for frame in camera.clip(t, start, length, every)]


def add_caption(frame: Array, text: str) -> Array:
    """Return a picture (H, W, 3) with a line of text above it."""
    bar = Image.new("RGB", (frame.shape[1], CAPTION_HEIGHT), "white")
    ImageDraw.Draw(bar).text((4, 4), text, fill="black")
    return np.vstack([np.asarray(bar), frame])


def encode_gif(frames: list[Array], rate: float) -> bytes:
    """Encode pictures (H, W, 3) as a gif that repeats, all with the colours of the first, which keeps it small."""
    palette = Image.fromarray(frames[0]).quantize(COLOURS)
    first, *others = [Image.fromarray(x).quantize(palette=palette, dither=Image.Dither.NONE) for x in frames]
    out = io.BytesIO()
    duration = round(1000 / rate)
    first.save(out, "GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=True)
    return out.getvalue()


def encode_mp4(frames: list[Array], rate: float) -> bytes:
    """Encode pictures (H, W, 3) of even size as H.264 in mp4. Raises BadInput without PyAV."""
    av = import_av()
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        fps = Fraction(rate).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def import_av() -> Any:
    """Import PyAV. Raises BadInput if it is not installed."""
    try:
        import av
    except ImportError as e:
        raise BadInput(f"{e}; mp4 needs: pip install 'aihf_control[video]' (gif does not)") from e
    return av
