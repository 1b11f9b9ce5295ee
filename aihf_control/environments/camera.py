"""Pictures of episodes, rendered without a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.environments import watchdog
from aihf_control.environments.faults import report_faults
from aihf_control.environments.gym import Envs, EnvSpec, make_env

Array = np.ndarray
WIDTH, HEIGHT = 320, 240
LIBRARIES = ("egl", "osmesa", "glfw")
PER_SECOND = 30  # frames per second, if the environment names no rate


class Camera:
    """A renderer of episodes. Use it as a context: it keeps an invisible window open.

    Raises BadInput if the environment cannot be rendered on this machine.
    """

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
            with watchdog.calling():
                self.env.reset(seed=0)
            if hasattr(self.inner, "mujoco_renderer"):
                self._set_up()
            self._render()
        except Exception as e:  # every graphics library raises exceptions of its own
            self.env.close()
            hint = f"; set MUJOCO_GL to one of {', '.join(LIBRARIES)}" if hasattr(self.inner, "mujoco_renderer") else ""
            raise BadInput(f"cannot render {spec.id}: {' '.join(str(e).split())[:200]}{hint}") from e

    def _set_up(self) -> None:
        """Render small pictures without slow effects, from a camera that follows the robot (the default is fixed)."""
        import mujoco

        known: Any = mujoco  # its stubs lack these names
        self.inner.model.vis.quality.offsamples = 0
        renderer = self.inner.mujoco_renderer
        renderer.width, renderer.height = WIDTH, HEIGHT
        self.viewer = viewer = renderer._get_viewer("rgb_array")
        for flag in (known.mjtRndFlag.mjRND_SHADOW, known.mjtRndFlag.mjRND_REFLECTION):
            viewer.scn.flags[flag] = 0
        track = known.mj_name2id(self.inner.model, known.mjtObj.mjOBJ_CAMERA, "track")
        renderer.camera_id = track if track >= 0 else None
        viewer.cam.type, viewer.cam.trackbodyid = known.mjtCamera.mjCAMERA_TRACKING, 1  # if no camera has that name

    def clip(self, t: Trajectory, start: int, length: int, every: int) -> Iterator[Array]:
        """Yield a picture (H, W, 3) of every `every`-th state of a segment (clip).

        Where the episode ends inside the segment, the last picture is repeated in grey.
        """
        stop = min(start + length, len(t))
        recorded = t.qpos is not None and t.qvel is not None and hasattr(self.inner, "set_state")
        draw = self._draw_states if recorded else self._draw_replay
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for picture in draw(t, start, stop, every):
            yield picture
        grey = np.repeat((picture.mean(-1, keepdims=True) / 2).astype(np.uint8), 3, -1)
        shown = len(range(start, stop + 1, every))
        yield from [grey] * (len(range(start, start + length + 1, every)) - shown)

    def _draw_states(self, t: Trajectory, start: int, stop: int, every: int) -> Iterator[Array]:
        assert t.qpos is not None and t.qvel is not None
        if hasattr(self.inner, "variant_of"):  # the seed determines what is drawn
            Envs(self.spec, 1, [self.env]).put(0, t.qpos[0], t.qvel[0], t.seed)
        for step in range(start, stop + 1, every):
            with report_faults(self.spec.id, "in set_state"):
                self.inner.set_state(t.qpos[step], t.qvel[step])
            yield self._render()

    def _draw_replay(self, t: Trajectory, start: int, stop: int, every: int) -> Iterator[Array]:
        """Replay the episode from its reset, for recordings without simulator states."""
        if t.seed < 0:
            raise BadInput(
                "cannot render an episode that was recorded without simulator states and without the seed of its reset"
            )
        envs = Envs(self.spec, 1, [self.env])
        envs.reset(0, t.seed)
        for step in range(stop + 1):
            if step >= start and (step - start) % every == 0:
                yield self._render()
            if step < stop:
                envs.step(t.act[step : step + 1])

    def _render(self) -> Array:
        with watchdog.calling():
            picture = Image.fromarray(np.asarray(self.env.render(), np.uint8))
        width = 2 * round(picture.width * HEIGHT / picture.height / 2)  # mp4 needs an even width
        return np.asarray(picture if picture.height == HEIGHT else picture.resize((width, HEIGHT)))

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.viewer is not None:  # if freed later, it would free the textures of the next camera
            self.viewer.make_context_current()
            self.viewer.con.free()
        self.env.close()
