"""Draws episodes of an environment, without a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.environments.gym import EnvSpec, make_env

Array = np.ndarray
WIDTH, HEIGHT = 320, 240
LIBRARIES = ("egl", "osmesa", "glfw")
PER_SECOND = 30  # frames of the film


class Camera:
    """Draws what an episode looked like. A context: it holds a window that nobody sees."""

    def __init__(self, spec: EnvSpec):
        if sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")
        if os.environ.get("MUJOCO_GL", "egl") not in LIBRARIES:
            raise BadInput(f"MUJOCO_GL is {os.environ['MUJOCO_GL']!r}; known are {', '.join(LIBRARIES)}")
        self.spec, self.env = spec, make_env(spec, render_mode="rgb_array")
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
