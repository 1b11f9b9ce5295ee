"""Film a policy before and after training, side by side: docs/images/before_after.gif, shown in the README.

    python docs/make_film.py                     # train 1 seed of AIHF on HalfCheetah-v4, then film it
    python docs/make_film.py --runs /tmp/film    # keep the trained policies there and reuse them

Before: the clone of 1 demonstration, from which AIHF starts. After: the policy after 25,000 environment steps. Both are
drawn from the same reset, without a window (MUJOCO_GL=egl or osmesa).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import aihf_control as aihf
from aihf_control.core.types import Trajectory
from aihf_control.environments.camera import Camera
from aihf_control.environments.rollout import rollout

FOLDER = Path(__file__).parent
ENV, SEED, RESET = "HalfCheetah-v4", 0, 900_000
START, LENGTH, EVERY = 40, 100, 2  # steps of the episode that are shown; the environment makes 20 a second
SIZE, BAR, COLOURS = (256, 192), 18, 48
CAPTIONS = {"bc": "before: clone of 1 demonstration", "aihf": "after 25,000 steps of AIHF"}


def policies(runs: Path) -> dict[str, aihf.TrainedPolicy]:
    """Load the policies from `runs`, or train and store them there."""
    paths = {method: runs / f"{method}.safetensors" for method in CAPTIONS}
    missing = [method for method, path in paths.items() if not path.is_file()]
    data = aihf.make_dataset(ENV) if missing else None
    for method in missing:
        result = aihf.train(method, data, seeds=[SEED], products="bfloat16", evaluations=2)
        print(method, result.final(), result.score(result.final()))
        result.policy.save(paths[method])
    return {method: aihf.load_policy(path) for method, path in paths.items()}


def episode(policy: aihf.TrainedPolicy) -> Trajectory:
    """Play one greedy episode and record the simulator's states."""
    spec = policy.spec
    return rollout(spec, lambda obs: spec.from_env(policy.predict(obs)[0]), [RESET], state=True)[0]


def captioned(frame: np.ndarray, text: str) -> Image.Image:
    """Return a frame of the film with a line of text above the picture."""
    image = Image.new("RGB", (SIZE[0], SIZE[1] + BAR), "white")
    image.paste(Image.fromarray(frame).resize(SIZE), (0, BAR))
    ImageDraw.Draw(image).text((4, 3), text, fill="black")
    return image


def film(episodes: dict[str, Trajectory], policy: aihf.TrainedPolicy, path: Path) -> None:
    """Write the episodes side by side as a GIF."""
    with Camera(policy.spec) as camera:
        sides = []
        for method, t in episodes.items():
            text = f"{CAPTIONS[method]} (return {t.reward.sum():.0f})"
            sides.append([captioned(frame, text) for frame in camera.clip(t, START, LENGTH, EVERY)])
        duration = round(1000 * EVERY / camera.rate)
    frames = [Image.fromarray(np.hstack([np.asarray(image) for image in row])) for row in zip(*sides, strict=True)]
    palette = frames[0].quantize(COLOURS)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of trained policies; default: train and do not keep them")
    parser.add_argument("--out", type=Path, default=FOLDER / "images" / "before_after.gif")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = policies(given.runs or Path(temporary))
        episodes = {method: episode(policy) for method, policy in found.items()}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        film(episodes, found["aihf"], given.out)
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
