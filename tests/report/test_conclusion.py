"""The conclusion in words says what the intervals allow, and no more."""

import re

import numpy as np
import pytest

from aihf_control.core.statistics import Estimate, improvement_estimate
from aihf_control.report.claims import side_of_half
from aihf_control.report.conclusion import conclude, describe_method
from aihf_control.report.load import load_grid
from tests.report.test_page import change, key_of, make_grid


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return load_grid(make_grid(tmp_path_factory.mktemp("concluded") / "grid", []))


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.51, 1.0, 1), (0.5, 1.0, 0), (0.2, 0.8, 0), (0.0, 0.5, 0), (0.0, 0.49, -1)]
)
def test_a_verdict_is_whether_the_interval_contains_a_half(low, high, expected):
    assert side_of_half(Estimate((low + high) / 2, low, high, 5)) == expected


def test_the_words_follow_the_intervals():
    chances = {
        "a": Estimate(0.9, 0.6, 1.0, 5),
        "b": Estimate(0.6, 0.4, 0.8, 5),
        "c": Estimate(0.3, 0.1, 0.4, 5),
        "d": Estimate(0.8, 0.7, 0.9, 5),
    }
    assert describe_method("x", chances) == (
        "x is above a (0.90 [0.60, 1.00]) and d (0.80 [0.70, 0.90]); it cannot be told apart from b (0.60 [0.40, 0.80])"
        "; it is below c (0.30 [0.10, 0.40]), although its score is higher."
    )
    assert describe_method("x", {}) == ""


def test_a_grid_is_concluded_setting_by_setting(grid):
    texts = [sentence.text for sentence in conclude(grid)]
    assert texts[0].startswith("Pairs 20: aihf has the highest score, 0.67 [")
    assert texts[1] == "Pairs 20: aihf is above bc (1.00 [1.00, 1.00])."
    chance = improvement_estimate(
        *(grid.scores(method, {"pairs": 40}) for method in ("aihf", "bc")), np.random.default_rng(0)
    )
    assert texts[3] == f"Pairs 40: aihf is above bc ({chance})." and chance.low > 0.5
    assert {run for sentence in conclude(grid)[:2] for run in sentence.runs} == {
        key_of(method, 20, env) for method in ("aihf", "bc") for env in ("A-v0", "B-v0")
    }


def test_equal_methods_are_not_ranked(tmp_path):
    folder = make_grid(tmp_path / "grid", [])
    for env in ("A-v0", "B-v0"):
        source = folder / "cells" / key_of("bc", 20, env) / "log.jsonl"
        (folder / "cells" / key_of("aihf", 20, env) / "log.jsonl").write_text(source.read_text())
    texts = [sentence.text for sentence in conclude(load_grid(folder))]
    assert re.search(r"Pairs 20: \w+ cannot be told apart from \w+ \(0\.50 \[", " ".join(texts))


def test_a_method_without_all_its_runs_is_not_ranked(tmp_path):
    folder = make_grid(tmp_path / "grid", [])
    change(folder / "cells" / key_of("bc", 20, "B-v0") / "summary.json", interrupted=True)
    assert not any(sentence.text.startswith("Pairs 20") for sentence in conclude(load_grid(folder)))
