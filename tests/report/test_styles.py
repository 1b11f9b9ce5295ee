"""Styles of methods: distinct, stable, and told apart by colour-blind readers (simulated)."""

import itertools

import numpy as np
import pytest

from aihf_control import methods
from aihf_control.report.styles import DASHES, MAIN, MARKERS, OTHER_COLOURS, style_of

# Machado, Oliveira and Fernandes (2009), severity 1.0; for linear RGB
SIGHTS = {
    "normal": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a colour as a reader sees it."""
    t = TO_XYZ @ np.clip(np.array(SIGHTS[sight]) @ linear(colour), 0, 1) / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first: str, second: str, sight: str) -> float:
    return float(np.linalg.norm(lab(first, sight) - lab(second, sight)))


def test_the_simulation_confuses_what_deuteranopes_confuse():
    assert distance("#CC3300", "#667700", "normal") > 60 > 15 > distance("#CC3300", "#667700", "deuteranopia")
    assert lab("#FFFFFF", "protanopia") == pytest.approx([100, 0, 0], abs=0.1)


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_main_methods_have_colours_that_every_reader_tells_apart(sight):
    for first, second in itertools.combinations(MAIN, 2):
        assert distance(MAIN[first].color, MAIN[second].color, sight) >= 30, (first, second)


@pytest.mark.parametrize("colour", [*(style.color for style in MAIN.values()), *OTHER_COLOURS])
def test_every_colour_stands_out_from_white(colour):
    contrast = 1.05 / (0.05 + float(TO_XYZ[1] @ linear(colour)))
    assert contrast >= 2.9


def test_the_main_methods_differ_in_marker_and_dashes_too():
    for part in ("marker", "dashes"):
        assert len({getattr(style, part) for style in MAIN.values()}) == len(MAIN)


def test_no_two_methods_have_the_same_marker_and_dashes_in_one_colour():
    styles = [style_of(name) for name in methods.names()]
    assert len(set(styles)) == len(styles)
    assert len({(s.color, s.dashes) for s in styles}) == len(styles)  # lines without markers differ, too


def test_a_name_that_is_not_listed_has_the_style_of_its_hash():
    assert style_of("my_method") == style_of("my_method") != style_of("my_other_method")
    assert style_of("my_method").marker in MARKERS and style_of("my_method").dashes in DASHES
