"""Clips as moving pictures, headless: the two of a comparison side by side, the preferred one on the left.

What makes MuJoCo's pictures slow without a graphics card is left out: shadows, reflections, multisampling (measured
ten times as slow). mp4 needs `pip install 'aihf_control[video]'`; gif needs nothing more.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from aihf_control.core.files import BadInput, write_bytes
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset, references
from aihf_control.data.ties import ties
from aihf_control.environments.gym import EnvSpec, made, spec_of

Array = np.ndarray
WIDTH, HEIGHT, BAR = 320, 240, 20
LIBRARIES = ("egl", "osmesa", "glfw")
PER_SECOND = 30  # frames of the film
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
    text = f"{t.level}, episode {episode} from {start}: {t.gain(start, length):.1f}{said}"
    return [_captioned(frame, text) for frame in camera.clip(t, start, length, every)]


class Camera:
    """Draws what an episode looked like. A context: it holds a window that nobody sees."""

    def __init__(self, spec: EnvSpec):
        if sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")
        if os.environ.get("MUJOCO_GL", "egl") not in LIBRARIES:
            raise BadInput(f"MUJOCO_GL is {os.environ['MUJOCO_GL']!r}; known are {', '.join(LIBRARIES)}")
        self.spec, self.env = spec, made(spec, render_mode="rgb_array")
        self.rate = float(self.env.metadata.get("render_fps") or PER_SECOND)
        self.inner: Any = self.env.unwrapped
        self.viewer: Any = None
        try:
            self.env.reset(seed=0)
            if hasattr(self.inner, "mujoco_renderer"):
                self._set_up()
            self._look()
        except Exception as e:  # each graphics library fails in its own way, all for want of something on the machine
            self.env.close()
            hint = f"; MUJOCO_GL may be {', '.join(LIBRARIES)}" if hasattr(self.inner, "mujoco_renderer") else ""
            raise BadInput(f"cannot draw {spec.id}: {' '.join(str(e).split())[:200]}{hint}") from e

    def _set_up(self) -> None:
        """A small picture without what is slow, from a camera that goes along: Gymnasium's own stays where it began."""
        import mujoco

        known: Any = mujoco  # its stubs lack these names
        self.inner.model.vis.quality.offsamples = 0
        renderer = self.inner.mujoco_renderer
        renderer.width, renderer.height = WIDTH, HEIGHT
        self.viewer = viewer = renderer._get_viewer("rgb_array")
        for flag in (known.mjtRndFlag.mjRND_SHADOW, known.mjtRndFlag.mjRND_REFLECTION):
            viewer.scn.flags[flag] = 0
        along = known.mj_name2id(self.inner.model, known.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = along if along >= 0 else None
        viewer.cam.type, viewer.cam.trackbodyid = known.mjtCamera.mjCAMERA_TRACKING, 1  # where none is named so

    def clip(self, t: Trajectory, start: int, length: int, every: int) -> Iterator[Array]:
        """Pictures (H, W, 3) of every so many-th of the clip's states; after a fall the last one, in grey."""
        stop = min(start + length, len(t))
        recorded = t.qpos is not None and t.qvel is not None and hasattr(self.inner, "set_state")
        draw = self._put if recorded else self._play
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for picture in draw(t, start, stop, every):
            yield picture
        grey = np.repeat((picture.mean(-1, keepdims=True) / 2).astype(np.uint8), 3, -1)
        shown = len(range(start, stop + 1, every))
        yield from [grey] * (len(range(start, start + length + 1, every)) - shown)

    def _put(self, t: Trajectory, start: int, stop: int, every: int) -> Iterator[Array]:
        assert t.qpos is not None and t.qvel is not None
        for step in range(start, stop + 1, every):
            self.inner.set_state(t.qpos[step], t.qvel[step])
            yield self._look()

    def _play(self, t: Trajectory, start: int, stop: int, every: int) -> Iterator[Array]:
        """Where there are no states to set: from the reset on."""
        if t.seed < 0:
            raise BadInput("an episode recorded without states and without the seed of its reset cannot be drawn")
        self.env.reset(seed=t.seed)
        for step in range(stop + 1):
            if step >= start and (step - start) % every == 0:
                yield self._look()
            if step < stop:
                act = self.spec.to_env(t.act[step]).astype(np.float32)
                self.env.step(act.reshape(self.env.action_space.shape))

    def _look(self) -> Array:
        picture = Image.fromarray(np.asarray(self.env.render(), np.uint8))
        width = 2 * round(picture.width * HEIGHT / picture.height / 2)  # even, as mp4 has it
        return np.asarray(picture if picture.height == HEIGHT else picture.resize((width, HEIGHT)))

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.viewer is not None:  # freed later, its textures would be another camera's of the same numbers
            self.viewer.make_context_current()
            self.viewer.con.free()
        self.env.close()


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
