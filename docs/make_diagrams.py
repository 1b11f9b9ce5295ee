"""Draw the diagrams of concepts.md as SVG: `python docs/make_diagrams.py`."""

from __future__ import annotations

import sys
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#b8bcc4", "#222"


def svg(height: int, *shapes: str) -> str:
    """Return an image 640 wide, on white so that it can be read on a dark page."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="15">'
    )
    return "\n".join([head, f'<rect width="640" height="{height}" rx="8" fill="#fff"/>', *shapes, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str = "start", fill: str = INK) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}"/>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = INK, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{stroke}" stroke-width="2"{dashes}/>'


def lanes() -> str:
    """Draw the seeds of a run as slices of one stack of tensors."""
    rows = []
    for lane in range(3):
        y = 44 + 46 * lane
        rows += [text(20, y + 22, f"seed {lane}")]
        for x, words in zip((100, 232, 364, 496), ("data", "networks", "replay", "environment"), strict=True):
            rows += [box(x, y, 122, 34, BLUE), text(x + 61, y + 22, words, "middle", "#fff")]
    note = text(320, 206, "one tensor for all lanes: weights (L, in, out), one batched product a layer", "middle")
    return svg(224, text(20, 28, "A run of 3 lanes"), *rows, note)


def segments() -> str:
    """Draw two episodes, a segment of each, and the comparison of the two."""
    shapes = [text(20, 30, "Two segments of equal length are compared")]
    for y, words, start, fill in ((60, "episode 4", 210, BLUE), (126, "episode 9", 350, ORANGE)):
        shapes += [text(20, y + 22, words), box(110, y, 500, 34, GREY), box(start, y, 130, 34, fill)]
        shapes += [text(start + 65, y + 22, "K steps", "middle", "#fff")]
    shapes += [text(20, 200, "label: the blue one is preferred"), text(620, 200, "R(blue) > R(orange)", "end")]
    return svg(218, *shapes)


def absorbing() -> str:
    """Draw an episode that falls, and the absorbing state that follows it for ever."""
    shapes = [text(20, 30, "After a fall the reward is 0 for ever")]
    shapes += [box(30 + 46 * i, 60, 36, 36, BLUE) for i in range(5)]
    shapes += [text(48 + 46 * i, 118, f"r{i}", "middle") for i in range(5)]
    shapes += [text(300, 84, "fall", "middle", ORANGE), line(260, 78, 278, 78), line(322, 78, 344, 78)]
    shapes += [box(350 + 46 * i, 60, 36, 36, GREY) for i in range(5)]
    shapes += [text(368 + 46 * i, 118, "0", "middle") for i in range(5)]
    shapes += [text(604, 84, "..."), text(20, 152, "A time limit is not a fall: the value after it is the critic's.")]
    return svg(168, *shapes)


def scores() -> str:
    """Draw the scale of scores."""

    def at(score: float) -> float:
        return 90 + 400 * score

    marks = ((0.0, "random", GREY), (0.54, "clone", ORANGE), (1.0, "expert", BLUE))
    shapes = [text(20, 30, "Score: (return - random) / (expert - random)"), line(40, 84, 600, 84)]
    for score, words, fill in marks:
        shapes += [f'<circle cx="{at(score)}" cy="84" r="8" fill="{fill}"/>', text(at(score), 66, words, "middle")]
        shapes += [text(at(score), 114, f"{score:g}", "middle")]
    return svg(130, *shapes)


DIAGRAMS = {"lanes": lanes, "segments": segments, "absorbing": absorbing, "scores": scores}


def main(folder: Path = IMAGES) -> int:
    for name, draw in DIAGRAMS.items():
        (folder / f"{name}.svg").write_text(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
