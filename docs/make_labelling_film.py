"""Film and photograph the labelling page in Chromium: docs/images/labelling.gif and two pictures beside it.

    python docs/make_labelling_film.py                     # make a dataset of Hopper-v4, then film its page
    python docs/make_labelling_film.py --dataset my_data   # film the page of this dataset; its answers are kept

Needs Playwright and a Chromium (`chromium` on the PATH). The clips are put to each of their pictures by hand, so that
the film does not depend on the speed of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

import aihf_control as aihf

IMAGES = Path(__file__).parent / "images"
ENV, CLIP = "Hopper-v4", 50
SIZE, FILM, BAR, COLOURS = (1000, 640), (640, 410), 22, 64
MARKS = (37, 99, 235, 255, 255, 255)  # the page's blue and white, which are too rare in a frame to get a colour
PER_PAIR, SECONDS = 8, 0.14  # pictures of a pair, and the time of the clips from one to the next
KEYS = {"ArrowRight": "right arrow: the right one", "ArrowLeft": "left arrow: the left one", "ArrowDown": "down: equal"}
LABELLED = 9  # pairs that are answered before the page of the results is photographed
SHOW = """async (seconds) => {
  const videos = [...document.querySelectorAll(".pair.shown video")];
  await Promise.all(videos.map((video) => new Promise((resolve) => {
    video.pause();
    video.onseeked = resolve;
    video.currentTime = Math.min(seconds, video.duration - 0.01);
  })));
}"""


@contextlib.contextmanager
def served(dataset: Path) -> Iterator[dict[str, str]]:
    """Serve the page of a dataset to two annotators; yield the links."""
    command = [sys.executable, "-m", "aihf_control.label", str(dataset), "--port", "0", "--annotators", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        links = {}
        for line in process.stdout:
            if found := re.match(r"(\w+): (http\S+)", line):
                links[found[1]] = found[2]
            if line.startswith("each link"):
                break
        try:
            yield links
        finally:
            process.terminate()


def wait_for_pair(page: Any, before: str | None = None) -> str:
    """Return the id of the question that is shown, once it is another one than before."""
    changed = "old => { const q = document.getElementById('stage').dataset.question; return q && q !== old && q }"
    return page.wait_for_function(changed, arg=before, timeout=120_000).json_value()


def press(page: Any, key: str, shown: str) -> str:
    """Press a key, after the time in which the page takes it for one pressed twice; return the next question's id."""
    page.wait_for_timeout(300)
    page.keyboard.press(key)
    return wait_for_pair(page, shown)


def frame(page: Any, text: str) -> Image.Image:
    """Return a picture of the page, with a line of text below it."""
    image = Image.new("RGB", (FILM[0], FILM[1] + BAR), "white")
    image.paste(Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(FILM, Image.Resampling.LANCZOS))
    ImageDraw.Draw(image).text((FILM[0] // 2, FILM[1] + BAR // 2), text, fill="black", anchor="mm", font_size=14)
    return image


def film(page: Any) -> list[Image.Image]:
    """Answer a pair by each key; return the frames."""
    frames, held = [], []
    for key, text in KEYS.items():
        shown = wait_for_pair(page)
        for i in range(PER_PAIR):
            page.evaluate(SHOW, i * SECONDS)
            frames.append(frame(page, ""))
        page.route("**/api/answer", lambda route: held.append(route))  # the choice stays marked until it goes on
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        frames += [frame(page, text)] * 4
        route = held.pop()
        route.continue_(post_data=json.dumps(route.request.post_data_json | {"seconds": 3.5}))  # filming takes longer
        page.unroute("**/api/answer")
        wait_for_pair(page, shown)
    return frames


def save_film(frames: list[Image.Image], path: Path) -> None:
    """Write the frames as a GIF."""
    palette = frames[0].quantize(COLOURS)
    palette.putpalette([*(palette.getpalette() or [])[: 3 * COLOURS], *MARKS])
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=round(1000 * SECONDS), loop=0, optimize=True)


def label_some(page: Any, keys: list[str]) -> None:
    """Answer as many pairs as there are keys."""
    shown = wait_for_pair(page)
    for key in keys:
        shown = press(page, key, shown)


def photograph_results(page: Any, link: str, path: Path, width: int) -> None:
    """Photograph the results with a pair that is looked at again."""
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(link)
    page.locator(".looks button").first.click()
    page.locator(".pair.shown video").first.wait_for()
    page.evaluate(SHOW, 0.5)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path, full_page=width < 600)


def photograph(chromium: Any, links: dict[str, str], out: Path) -> None:
    """Film the page of the first annotator; photograph that of the second on a phone, and the results."""
    page = chromium.new_page(viewport=dict(zip(("width", "height"), SIZE, strict=True)))
    page.goto(links["person1"])
    save_film(film(page), out / "labelling.gif")
    label_some(page, ["ArrowLeft", "ArrowRight", "ArrowRight"] * (LABELLED // 3))
    phone = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).new_page()
    phone.goto(links["person2"])
    wait_for_pair(phone)
    phone.evaluate(SHOW, 0.5)
    phone.screenshot(path=out / "labelling_phone.png")
    label_some(phone, ["ArrowLeft", "ArrowRight", "ArrowDown"] * (LABELLED // 3))
    photograph_results(chromium.new_page(), links["results"], out / "labelling_results.png", 1280)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="folder of a dataset; default: make one and do not keep it")
    parser.add_argument("--out", type=Path, default=IMAGES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = given.dataset or Path(temporary) / "data"
        if not given.dataset:
            aihf.make_dataset(ENV, aihf.DataConfig(clip=CLIP), out=folder)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with served(folder) as links:
            photograph(chromium, links, given.out)
        chromium.close()
    for path in sorted(given.out.glob("labelling*")):
        print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
