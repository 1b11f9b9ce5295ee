"""Draw the package's own environments: docs/images/shifted.png, maze.png and terrain.png.

    python docs/make_env_pictures.py

Each picture shows greedy episodes of the bundled expert, without a window (MUJOCO_GL=egl or osmesa).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from aihf_control.core.types import Trajectory
from aihf_control.data.pool import load_experts
from aihf_control.environments.camera import Camera
from aihf_control.environments.gym import EVALUATION_SEED, EnvSpec, spec_of
from aihf_control.environments.rollout import rollout

IMAGES = Path(__file__).parent / "images"
SIZE, BAR, COLOURS = (256, 192), 18, 64
Panel = tuple[np.ndarray, str]


def episodes(spec: EnvSpec, seeds: Sequence[int]) -> list[Trajectory]:
    """Play the bundled expert from these seeds and record the simulator's states."""
    expert = load_experts(spec.id, spec, None)["expert"]
    return rollout(spec, lambda obs: expert.act(torch.as_tensor(obs)).numpy(), seeds, state=True)


def shifted() -> list[list[Panel]]:
    """One column for each group, two moments of an episode."""
    mass, friction, gear = [1.0, 1.5, 1.0], [1.0, 1.0, 0.3], [1.0, 1.0, 0.5]
    spec = spec_of("shifted/HalfCheetah-v4", shares=[0.8, 0.1, 0.1], mass=mass, friction=friction, gear=gear)
    columns = []
    with Camera(spec) as camera:
        for group, t in enumerate(episodes(spec, [EVALUATION_SEED + i for i in range(3)])):
            assert t.qpos is not None
            text = f"mass {mass[group]:g}, friction {friction[group]:g}, gear {gear[group]:g}"
            after = f"after 5 s: {t.qpos[100, 0]:.0f} m, return {t.reward.sum():.0f}"
            frames = list(camera.clip(t, 20, 80, 80))
            columns.append([(frames[0], text), (frames[1], after)])
    return columns


def maze() -> list[list[Panel]]:
    """One column for each maze, with a start and a goal, and below the last frame of an episode in the "u" maze."""
    columns = []
    for kind in ("open", "u", "s"):
        spec = spec_of("aihf/PointMaze-v0", maze=kind)
        with Camera(spec) as camera:
            t = max(episodes(spec, [EVALUATION_SEED + i for i in range(12)]), key=_length_if_reached)
            frames = list(camera.clip(t, 0, len(t), max(1, len(t) // 2)))
            panels = [(frames[0], f'maze = "{kind}"'), (frames[1], f"after {len(t) // 2} of {len(t)} steps")]
            columns.append(panels)
    return columns


def _length_if_reached(t: Trajectory) -> int:
    return len(t) if t.terminated else 0


def terrain() -> list[list[Panel]]:
    """Three unseen levels, each when the robot comes to its first boxes, and later."""
    spec = spec_of("aihf/Terrain-v0")
    columns = []
    with Camera(spec) as camera:
        inner: Any = camera.inner
        for t in episodes(spec, [EVALUATION_SEED + i for i in (0, 2, 6)]):
            assert t.qpos is not None
            inner.reset(seed=t.seed)
            x, _, z = inner.model.opt.gravity
            slope = np.degrees(np.arctan2(-x, -z))
            text = f"level {inner.variant}: slope {slope:.1f} degrees, return {t.reward.sum():.0f}"
            boxes = np.sort(inner.model.body_pos[inner.box_ids, 0])
            at = [int(np.argmax(t.qpos[:, 0] > place - 0.3)) for place in boxes[[1, 5]]]
            columns.append([(next(camera.clip(t, step, 1, 1)), text if i == 0 else "") for i, step in enumerate(at)])
    return columns


def save(columns: list[list[Panel]], path: Path) -> None:
    """Write panels in columns as a PNG with few colours."""
    pictures = [np.vstack([np.asarray(captioned(*panel)) for panel in column]) for column in columns]
    Image.fromarray(np.hstack(pictures)).quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def captioned(frame: np.ndarray, text: str) -> Image.Image:
    """Return a frame with a line of text above it."""
    image = Image.new("RGB", (SIZE[0], SIZE[1] + BAR), "white")
    picture = Image.fromarray(frame)
    width = round(picture.width * SIZE[1] / picture.height)
    image.paste(picture.resize((width, SIZE[1])), ((SIZE[0] - width) // 2, BAR))
    ImageDraw.Draw(image).text((4, 3), text, fill="black")
    return image


if __name__ == "__main__":
    for draw in (shifted, maze, terrain):
        save(draw(), IMAGES / f"{draw.__name__}.png")
