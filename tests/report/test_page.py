"""The report of a grid of runs made by hand: numbers, notes on missing runs, the same bytes twice."""

import base64
import cProfile
import dataclasses
import html
import itertools
import json
import os
import pstats
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.core.statistics import iqm_of_all
from aihf_control.report import __main__ as report
from aihf_control.report import figures, films
from aihf_control.report.figures import draw_curves
from aihf_control.report.films import film_path
from aihf_control.report.formats import format_csv, format_latex, format_markdown
from aihf_control.report.load import load_grid
from aihf_control.report.page import find_versions, write_report
from aihf_control.report.plotting import NARROW, WIDE, arrange, finish_axes, make_panels
from aihf_control.report.tables import build_tables

RANDOM, EXPERT = 100.0, 1100.0
REPORT = {"baseline": "bc", "tables": ["scores", "environments", "improvement"]}
LONG = ", demo level medium, levels expert medium weak, error 0.499"
FIGURES = ["scores", "curves", "labels", "profiles", "dials", "reward"]
ENVS = ("A-v0", "B-v0")


def lines(scores: list, key: str, reward: bool) -> list[dict]:
    """A log: every seed at step 0, half way and at the end, where it has its score."""
    rows = []
    for seed, score in enumerate(scores):
        for step, share in ((0, 0.1), (50, 0.5), (100, 1.0)):
            value = None if score is None and step == 100 else RANDOM + 1000 * share * (score or 0.0)
            row = {
                "seed": seed,
                "step": step,
                "return": value,
                "env_steps": step * reward,
                "labels": step // 5 * reward,
            }
            rows.append(row | ({"pair_accuracy": 0.5 + 0.1 * seed, "rank_correlation": 0.9} if reward else {}))
    return rows


def write_run(folder: Path, scores: list, *, reward: bool, interrupted: bool = False, digest: str = "d0") -> None:
    folder.mkdir(parents=True)
    config = {
        "options": {"env": "A-v0", "pairs": 20},
        "cell": {"seeds": list(range(len(scores))), "cfg": {"steps": 100}},
    }
    config["cell"] |= {"products": "float32", "device": "cpu"}
    config |= {"dataset": {"folder": "results/datasets/x", "digest": digest, "sha256": {"pool.npz": "ff" * 32}}}
    config |= {"versions": {"python": "3", "torch": "2"}, "commit": "abc"}
    (folder / "config.json").write_text(json.dumps(config))
    log = lines(scores, folder.name, reward)
    (folder / "log.jsonl").write_text("\n".join(json.dumps(row) for row in log) + "\n")
    summary = {"seeds": list(range(len(scores))), "steps": 100, "interrupted": interrupted, "dataset": digest}
    summary |= {"overvalued": [], "diverged": [i for i, s in enumerate(scores) if s is None]}
    summary |= {"random_return": RANDOM, "expert_return": EXPERT, "demo_returns": [RANDOM + 500.0] * len(scores)}
    (folder / "summary.json").write_text(json.dumps(summary))


SCORES = {
    ("aihf", 20, "A-v0"): [0.9, 1.0, 1.1, 0.8, 0.7],
    ("aihf", 20, "B-v0"): [0.6, 0.5, 0.4, 0.5, 0.5],
    ("bc", 20, "A-v0"): [0.5, 0.4, 0.6, 0.5, 0.5],
    ("bc", 20, "B-v0"): [0.2, 0.3, 0.2, 0.1, 0.2],
    ("aihf", 40, "A-v0"): [1.0, 1.0, 1.0, 1.0, 1.0],
    ("aihf", 40, "B-v0"): [0.9, None, 0.7, 0.8, 0.8],
    ("bc", 40, "A-v0"): [0.5, 0.5, 0.5, 0.5, 0.5],
    ("bc", 40, "B-v0"): [0.2, 0.2, 0.2, 0.2, 0.2],
}


def key_of(method: str, pairs: int, env: str) -> str:
    return f"{method}{pairs}{env[0].lower()}-c0de"


def make_grid(folder: Path, figures: list[str]) -> Path:
    """A grid of two methods, two numbers of comparisons, two environments, with five seeds each; one run diverged."""
    cells = []
    for (method, pairs, env), scores in SCORES.items():
        key = key_of(method, pairs, env)
        cells.append({"key": key, "env": env, "name": method, "method": method, "seeds": 5, "dials": {"pairs": pairs}})
        write_run(folder / "cells" / key, scores, reward=method == "aihf")
    about = {"name": "grid", "title": "A <title>", "about": "What & why.", "file": "x = 1", "cells": cells}
    (folder / "grid.json").write_text(json.dumps({**about, "report": REPORT | {"figures": figures}}))
    return folder


@pytest.fixture
def grid(tmp_path) -> Path:
    """A grid without figures, to be changed."""
    return make_grid(tmp_path / "grid", [])


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A grid and its report with all figures, only to be looked at."""
    folder = make_grid(tmp_path_factory.mktemp("reported") / "grid", FIGURES)
    write_report(folder)
    return folder


def page_of(grid: Path) -> str:
    return (grid / "report" / "page.html").read_text()


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def table(grid: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(grid / "report" / f"{name}.csv")


# ------------------------------------------------------------------------------------------------------------- numbers


def test_the_tidy_frames_have_a_row_a_lane_and_evaluation(reported):
    runs, evaluations = table(reported, "runs"), table(reported, "evaluations")
    assert len(runs) == 8 * 5 and len(evaluations) == 8 * 5 * 3
    one = runs[(runs["method"] == "aihf") & (runs["pairs"] == 20) & (runs["env"] == "A-v0")]
    assert one["score"].tolist() == pytest.approx([0.9, 1.0, 1.1, 0.8, 0.7])
    assert one["return"].tolist() == pytest.approx([1000, 1100, 1200, 900, 800])
    assert one["late_score"].tolist() == pytest.approx([0.75 * s for s in one["score"]])  # of steps 50 and 100
    assert one["above_demos"].tolist() == [1, 1, 1, 1, 1] and one["demo_score"].tolist() == pytest.approx([0.5] * 5)
    assert runs["diverged"].sum() == 1 and runs[runs["diverged"]]["cell"].tolist() == ["aihf40b-c0de"]


def test_scores_by_hand(reported):
    rows = table(reported, "scores").set_index(["pairs", "method"])
    aihf = rows.loc[(20, "aihf")]
    # 0.4 0.5 0.5 | 0.5 0.6 0.7 0.8 | 0.9 1.0 1.1: of ten values a quarter, rounded down, is cut off at each end
    assert aihf["IQM"] == pytest.approx((0.5 + 0.5 + 0.6 + 0.7 + 0.8 + 0.9) / 6)
    assert aihf["mean"] == pytest.approx((0.9 + 0.5) / 2) and aihf["median"] == pytest.approx((0.9 + 0.5) / 2)
    assert aihf["optimality gap"] == pytest.approx((0.1 + 0 + 0 + 0.2 + 0.3 + 0.4 + 0.5 + 0.6 + 0.5 + 0.5) / 10)
    assert aihf["IQM low"] < aihf["IQM"] < aihf["IQM high"] and aihf["n"] == 5
    assert rows.loc[(20, "(demonstrations)")]["mean"] == pytest.approx(0.5)
    assert rows.loc[(20, "bc")]["above demonstrations"] == pytest.approx(0.1)  # 0.6 alone is above 0.5
    ranked = table(reported, "scores")["method"].tolist()
    assert ranked == ["(demonstrations)", "aihf", "bc"] * 2


def test_a_run_that_diverged_scores_0_and_is_counted(reported):
    page = page_of(reported)
    row = table(reported, "environments").set_index(["environment", "pairs", "method"]).loc[("B-v0", 40, "aihf")]
    assert row["diverged"] == 1 and row["n"] == 5
    assert row["score"] == pytest.approx(iqm_of_all(np.array([[0.9], [0.0], [0.7], [0.8], [0.8]])))
    assert row["return"] == pytest.approx(RANDOM + 1000 * 0.8)  # of the four that have one
    assert "1 of 40 runs diverged" in page


def test_improvement_by_hand(reported):
    row = table(reported, "improvement").set_index(["pairs", "method"]).loc[(20, "aihf")]
    assert row["P(better than bc)"] == 1.0 and set(row["runs"].split()) == {
        key_of(m, 20, e) for m in ("aihf", "bc") for e in ENVS
    }


def test_few_runs_are_marked(grid):
    for folder in (grid / "cells").iterdir():
        log = [row for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if row["seed"] < 4]
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
        change(folder / "summary.json", seeds=[0, 1, 2, 3], demo_returns=[1.0] * 4)
    described = json.loads((grid / "grid.json").read_text())
    change(grid / "grid.json", cells=[cell | {"seeds": 4} for cell in described["cells"]])
    for made in build_tables(load_grid(grid)):
        assert "| 4* |" in format_markdown(made) and "*: fewer than 5 runs" in format_markdown(made)
        assert "4*" in format_latex(made) and "4*" not in format_csv(made)


def test_latex_is_escaped_and_names_its_runs(reported):
    for made in build_tables(load_grid(reported)):
        text = format_latex(made)
        body = re.sub(r"(?m)^% .*$", "", text)
        assert "95 \\%" in body and not re.search(r"(?<!\\)[%_#$]", body)
        assert text.count("% row ") == len(made.rows) and r"\toprule" in text


# ------------------------------------------------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Ids, links, sources, rows and tags of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.sources, self.rows, self.tags = set(), [], [], [], []
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given[name] for name in ("src", "srcset") if name in given]
        self.scripts += [given] if tag == "script" else []
        if tag == "tr":
            self.rows.append([])
        if tag == "a" and self.rows:
            self.rows[-1].append(given["href"])


def test_the_page_needs_no_other_file_and_its_images_are_complete(reported):
    text = page_of(reported)
    page = Page(text)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.sources) == 2 * 6  # wide, and narrow for phones
    for source in page.sources:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64" and base64.b64decode(data).rstrip().endswith(b"</svg>")
    assert page.scripts == [{}] and not {"link", "iframe"} & set(page.tags)  # the script is inside the page
    assert "http" not in re.sub('base64,[^"]*', "", text)
    assert "A &lt;title&gt;" in text and "What &amp; why." in text and "<title>A <title>" not in text


def test_every_row_and_every_figure_names_its_runs(reported):
    text = page_of(reported)
    page, keys = Page(text), {key_of(*cell) for cell in SCORES}
    assert {f"run-{key}" for key in keys} <= page.ids
    results = re.split(r'<h2 id="(?:runs)"', text)[0]
    for row in re.findall(r"<tr>(.*?)</tr>", results, re.DOTALL):
        named = set(re.findall(r'href="#run-([^"]+)"', row))
        assert "<th" in row or (named and named <= keys), row
    for caption in re.findall(r"<figcaption>(.*?)</figcaption>", results, re.DOTALL):
        assert set(re.findall(r'href="#run-([^"]+)"', caption)) <= keys and "#run-" in caption
    for name in ("scores", "environments", "improvement"):
        assert all(set(runs.split()) <= keys and runs for runs in table(reported, name)["runs"])


def test_a_row_names_exactly_the_runs_that_its_numbers_change_with(grid):
    write_report(grid)
    before = table(grid, "environments").set_index(["environment", "pairs", "method"])
    key = key_of("bc", 20, "A-v0")
    log = (grid / "cells" / key / "log.jsonl").read_text().replace('"return": 600.0', '"return": 900.0')
    (grid / "cells" / key / "log.jsonl").write_text(log)
    write_report(grid)
    after = table(grid, "environments").set_index(["environment", "pairs", "method"])
    changed = (before.fillna(0) != after.fillna(0)).any(axis=1)
    assert after.loc[changed[changed].index, "runs"].tolist() == [key]


def test_settings_versions_and_hashes_are_on_the_page(reported):
    text = page_of(reported)
    assert "ff" * 32 in text and "x = 1" in text and "&#34;steps&#34;: 100" in text
    assert ">python<" in text and ">abc<" in text


def test_the_page_has_contents_tool_tips_and_sortable_tables(reported):
    text = page_of(reported)
    contents = re.search(r"<nav.*?</nav>", text, re.DOTALL)[0]
    linked = set(re.findall(r'href="#([^"]+)"', contents))
    assert {"conclusion", "limits", "table-scores", "figure-curves", "runs"} <= linked <= Page(text).ids
    assert 'title="Interquartile mean' in text and 'title="Probability that a run of the method' in text
    scores = re.search(r'<h2 id="table-scores">.*?</table>', text, re.DOTALL)[0]
    keys = re.findall(r'<td data-sort="([^"]+)">\d\.\d\d \[', scores)
    assert '<table class="sortable">' in scores and keys and all(float(key) >= 0 for key in keys)


def test_every_figure_has_its_formats(reported):
    names = {path.name for path in (reported / "report").iterdir()}
    for name in FIGURES:
        assert {f"{name}.{end}" for end in ("png", "svg", "pdf", "narrow.svg")} <= names


def test_films_of_runs_are_inside_the_page(grid, monkeypatch):
    key = key_of("bc", 20, "A-v0")
    for rank, data in (("best", b"0123"), ("worst", b"9" * 40)):
        path = film_path(grid / "cells" / key, rank)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setattr(films, "MOST_BYTES", 40)
    text = write_report(grid)[0].read_text()
    assert (
        f"data:video/mp4;base64,{base64.b64encode(b'0123').decode()}" in text
        and "bc on A-v0, pairs 20, best seed" in text
    )
    assert f'href="../cells/{key}/films/worst.mp4"' in text  # it would exceed the limit


def test_runs_of_several_commits_are_named_in_words(grid):
    change(grid / "cells" / key_of("bc", 20, "A-v0") / "config.json", commit="0ther")
    text = write_report(grid)[0].read_text()
    assert "Not all runs are of one commit (0ther, abc); the numbers may differ by rounding." in text


def test_a_factor_and_an_environment_that_were_not_run_are_left_out(grid):
    for method in ("aihf", "bc"):
        for pairs in (20, 40):
            shutil.rmtree(grid / "cells" / key_of(method, pairs, "B-v0"))
    text = write_report(grid)[0].read_text()
    assert "Of 8 cells 4 have not begun" in text and "No cell of B-v0 has finished" in text
    assert set(table(grid, "scores")["IQM"].dropna()) and "rows have no result" not in text


def test_no_figure_is_without_data(grid):
    results = load_grid(grid)
    no_steps = dataclasses.replace(results, evaluations=results.evaluations.assign(env_steps=0))
    assert draw_curves(no_steps) is None
    same_labels = results.evaluations.assign(labels=20 * (results.evaluations["method"] == "aihf"))
    assert figures.draw_labels(dataclasses.replace(results, evaluations=same_labels)) is None


def test_a_method_without_steps_is_a_mark_and_the_references_are_lines(grid):
    drawing = draw_curves(load_grid(grid))
    assert drawing
    for ax in drawing.fig.axes:
        handles, names = ax.get_legend_handles_labels()
        by_name = dict(zip(names, handles, strict=True))
        assert list(by_name["expert"].get_ydata()) == [1, 1] and "clone (bc)" in by_name
        assert len(by_name["bc"].lines[0].get_xdata()) == 1  # the mark of an errorbar
        assert len(by_name["aihf"].get_xdata()) == 3


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_long_titles_are_broken_to_fit(layout, recwarn):
    fig, axes = make_panels(3)
    for ax in axes:
        finish_axes(ax, f"HalfCheetah-v4{LONG}", "score", "")
    for _ in range(2):  # as for the second layout
        arrange(fig, layout)
    boxes = [ax.title.get_window_extent() for ax in axes]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= fig.bbox.width for box in boxes) and not recwarn.list


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_long_names_of_rows_are_broken_to_fit(layout, recwarn):
    fig, (ax,) = make_panels(1)
    ax.set_yticks([0, 1], [f"aihf{LONG}", f"rlhf{LONG}"])
    for _ in range(2):
        arrange(fig, layout, height=1.1)
    boxes = [name.get_window_extent() for name in ax.get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes) and not boxes[0].overlaps(boxes[1]) and not recwarn.list
    assert " ".join(ax.get_yticklabels()[0].get_text().split()) == f"aihf{LONG}"


def test_the_same_runs_give_the_same_bytes(reported):
    before = {path.name: path.read_bytes() for path in (reported / "report").iterdir()}
    shutil.rmtree(reported / "report")
    assert report.main([str(reported.parent)]) == 0
    assert {path.name: path.read_bytes() for path in (reported / "report").iterdir()} == before


# ------------------------------------------------------------------------------------------- what is missing or damaged


def test_unfinished_runs_are_named_and_their_rows_are_empty(grid):
    (grid / "cells" / key_of("aihf", 40, "B-v0") / "summary.json").unlink()
    change(grid / "cells" / key_of("bc", 40, "B-v0") / "summary.json", interrupted=True)
    text = write_report(grid)[0].read_text()
    assert "Of 8 cells 1 are not finished, 1 were cut short" in text
    scores = re.search(r'<h2 id="table-scores">.*?<h2', text, re.DOTALL)[0]
    assert "2 rows have no result yet" in scores and scores.count("<tr>") == 1 + 3  # both methods, demonstrations
    rows = table(grid, "scores").set_index(["pairs", "method"])
    assert rows["IQM"].isna().to_dict()[(40, "aihf")] and rows.loc[(40, "bc"), "missing"] == "1 of 2 cells"
    assert rows.loc[(20, "aihf"), "IQM"] > 0
    env = table(grid, "environments").set_index(["environment", "pairs", "method"])
    assert env.loc[("A-v0", 40, "aihf"), "score"] == 1.0 and np.isnan(env.loc[("B-v0", 40, "aihf"), "score"])


def test_curves_have_no_panel_without_a_finished_run(grid, monkeypatch):
    for method in ("aihf", "bc"):
        (grid / "cells" / key_of(method, 40, "B-v0") / "summary.json").unlink()
    drawn = []
    monkeypatch.setattr(figures, "make_panels", lambda n: drawn.append(n) or make_panels(n))
    assert draw_curves(load_grid(grid)) and drawn == [3]
    (grid / "cells" / key_of("bc", 40, "A-v0") / "summary.json").unlink()
    assert draw_curves(load_grid(grid)) and drawn == [3, 3]  # one of its methods is enough


def test_differences_between_runs_are_named(grid):
    folder = grid / "cells" / key_of("aihf", 40, "B-v0")
    change(folder / "config.json", versions={"python": "4", "torch": "2"})
    change(folder / "summary.json", dataset="d1", overvalued=[2])
    text = write_report(grid)[0].read_text()
    assert "2 sets of versions" in text and "d0, d1" in text and "claim more than any policy can earn" in text


def test_a_grid_is_reported_in_its_own_folder(grid, capsys):
    assert report.main([str(grid.parent)]) == 0
    assert not (grid.parent / "table.md").exists() and "page.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "dials",
    [pytest.param((), marks=pytest.mark.slow), ("demos", "pairs"), ("demos", "pairs", "dataset.error")],
)
def test_any_number_of_swept_factors_can_be_reported(grid, dials):
    described = json.loads((grid / "grid.json").read_text())
    cells = [c for c in described["cells"] if c["dials"]["pairs"] == 20 or dials]
    for cell in cells:
        cell["dials"] = {name: cell["dials"].get(name, 1) for name in dials}
    change(grid / "grid.json", cells=cells, report=REPORT | {"figures": ["dials", "curves"]})
    write_report(grid)
    assert (grid / "report" / "dials.png").exists() == (len(dials) == 2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda t: "{", "not valid JSON"),
        (lambda t: "[" * 100_000, "not valid JSON"),
        (lambda t: "[]", "it holds no table"),
        (lambda t: t.replace('"title"', '"titel"'), "title missing or wrong"),
        (lambda t: t.replace('"What & why."', '"\\ud800"'), "not valid JSON"),
        (lambda t: t.replace('"seeds": 5', '"seeds": "5"'), "seeds missing or wrong"),
        (lambda t: t.replace('"seeds": 5', '"seeds": 6', 1), "the same number of seeds"),
        (lambda t: t.replace('{"pairs": 40}', "{}"), "the same swept factors"),
        (lambda t: t.replace('{"pairs": 40}', '{"pairs": {}}'), "swept factor must be a word"),
        (lambda t: t.replace('"pairs"', '"score"'), "can be called 'score'"),
        (lambda t: t.replace("bc20a-c0de", "../bc20a"), "no folder's name"),
        (lambda t: t.replace("bc20a-c0de", "aihf20a-c0de"), "the same cell twice"),
        (lambda t: t.replace('"bc"', '"b\\u0007c"'), "unprintable name"),
        (lambda t: t.replace('"improvement"', '"improvment"'), "did you mean improvement?"),
        (lambda t: t.replace('["scores", "environments", "improvement"]', "3"), "report.tables = 3"),
    ],
)
def test_a_damaged_grid_is_one_line(grid, capsys, damage, reason):
    path = grid / "grid.json"
    path.write_text(damage(path.read_text()))
    assert report.main([str(grid)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and reason in err and str(path.parent) in err


DAMAGED_RUNS = [
    ("log.jsonl", lambda t: t[: len(t) // 2], "not valid JSON"),
    ("log.jsonl", lambda t: t.replace('"labels"', '"label"'), "line 1, is not of a run's log: labels missing"),
    ("log.jsonl", lambda t: "\n".join(t.splitlines()[:6]), "has seeds 0 1"),
    ("log.jsonl", lambda t: "\n".join(t.splitlines()[:-1]), "not complete"),
    ("log.jsonl", lambda t: t.replace(t.splitlines()[4], "\0" * 40), "line 5, is not valid JSON"),
    ("log.jsonl", lambda t: t.replace('"seed": 1', '"seed": 1.5'), "seed missing or wrong"),
    ("log.jsonl", lambda t: t.replace('"seed": 1', '"seed": ' + "9" * 400), "seed missing or wrong"),
    ("log.jsonl", lambda t: t.replace('"return": ', '"return": "9", "x": ', 1), "return missing or wrong"),
    ("log.jsonl", lambda t: t.replace('"return": ', '"return": 1e300, "x": ', 1), "return missing or wrong"),
    ("log.jsonl", lambda t: "", "is empty"),
    ("log.jsonl", None, "cannot read"),
    ("summary.json", lambda t: t.replace('"random_return"', '"random"'), "random_return missing or wrong"),
    ("summary.json", lambda t: t.replace('"random_return": 100.0', '"random_return": 1100'), "equals expert_return"),
    ("summary.json", lambda t: t.replace('"seeds": [0, 1', '"seeds": [1'), "has 4 seeds"),
    ("summary.json", lambda t: t.replace('"seeds": [0, 1', '"seeds": [1, 1'), "different whole numbers"),
    ("summary.json", lambda t: t.replace('"demo_returns": [600.0', '"demo_returns": ["600"'), "demo_returns"),
    ("summary.json", lambda t: "\0" * len(t), "not valid JSON"),
    ("config.json", lambda t: "[]", "it holds no table"),
    ("config.json", lambda t: t.replace('"cell": {', '"cell": 3, "x": {'), "cell missing or wrong"),
    ("config.json", lambda t: t.replace('"python": "3"', '"python": 3'), "versions"),
    ("config.json", lambda t: t.replace('"products"', '"product"'), "products missing or wrong"),
    ("config.json", None, "cannot read"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGED_RUNS)
def test_a_damaged_run_is_excluded_by_name_and_the_others_are_reported(grid, capsys, name, damage, reason):
    key = key_of("aihf", 20, "A-v0")
    path = grid / "cells" / key / name
    text = path.read_text()
    path.unlink() if damage is None else path.write_text(damage(text))
    assert report.main([str(grid)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("excluded: ")]
    assert line.startswith(f"excluded: {grid / 'cells' / key}: ") and reason in line
    assert f"excluded: cells/{key}: " in page_of(grid)
    rows = table(grid, "scores").set_index(["pairs", "method"])
    assert rows.loc[(20, "aihf"), "missing"] == "1 of 2 cells, 1 excluded" and rows.loc[(40, "bc"), "IQM"] > 0


def test_a_directory_or_pipe_in_place_of_a_file_excludes_the_run(grid, capsys):
    for method, name in (("aihf", "log.jsonl"), ("bc", "summary.json")):
        path = grid / "cells" / key_of(method, 20, "A-v0") / name
        path.unlink()
        os.mkfifo(path) if method == "aihf" else path.mkdir()
    assert report.main([str(grid)]) == 0
    assert capsys.readouterr().out.count("not a regular file") == 2


def test_wrong_types_in_any_field_never_end_in_a_traceback(grid, capsys):
    """Each field of each file of a run, and of grid.json, is replaced by values of other types."""
    run = grid / "cells" / key_of("bc", 20, "B-v0")
    wrong = [None, True, 1e999, 10**400, "x", [], [[]], {}]
    described = json.loads((grid / "grid.json").read_text())
    change(grid / "grid.json", cells=[c for c in described["cells"] if c["key"] == run.name])
    for path in (run / "config.json", run / "summary.json", grid / "grid.json"):
        text = path.read_text()
        for where in leaves_of(json.loads(text)):
            for value in wrong:
                path.write_text(json.dumps(replaced(json.loads(text), where, value)))
                try:
                    load_grid(grid)
                except BadInput as e:
                    assert "\n" not in str(e), (path, where, value)
        path.write_text(text)
    assert len(load_grid(grid).lanes) == 5


def leaves_of(tree, path=()) -> list[tuple]:
    """Paths of all nodes of a tree; of a list only the first entry."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    return [path] * bool(path) + [leaf for name, child in children for leaf in leaves_of(child, (*path, name))]


def replaced(tree, path, value):
    """The tree with another value at a path."""
    node = tree
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return tree


@pytest.fixture
def no_files(monkeypatch):
    """Figures are drawn and arranged, but not written, which takes most of the time."""
    monkeypatch.setattr(figures, "bytes_of", lambda fig, kind: b"")


def test_a_grid_whose_lanes_all_diverged_has_its_page(tmp_path, recwarn, no_files):
    grid = make_grid(tmp_path / "grid", FIGURES)
    for (method, pairs, env), scores in SCORES.items():
        shutil.rmtree(grid / "cells" / key_of(method, pairs, env))
        write_run(grid / "cells" / key_of(method, pairs, env), [None] * len(scores), reward=method == "aihf")
    assert report.main([str(grid)]) == 0
    assert "40 of 40 runs diverged" in page_of(grid)
    assert set(table(grid, "scores").loc[lambda t: t["method"] != "(demonstrations)", "IQM"]) == {0.0}


def test_one_diverged_cell_without_any_finite_evaluation(grid, no_files):
    log = grid / "cells" / key_of("aihf", 20, "A-v0") / "log.jsonl"
    log.write_text(re.sub(r'"return": [^,]+', '"return": null', log.read_text()))
    change(grid / "grid.json", report=REPORT | {"figures": FIGURES})
    write_report(grid)
    assert "5 of 40 runs diverged" not in page_of(grid) and "6 of 40 runs diverged" in page_of(grid)


def test_versions_with_different_keys_are_all_shown(grid):
    change(grid / "cells" / key_of("bc", 20, "A-v0") / "config.json", versions={"python": "3", "jax": "9.9"})
    write_report(grid)
    text = page_of(grid)
    assert ">jax<" in text and ">9.9<" in text and ">torch<" in text and "2 sets of versions" in text


def test_more_sets_of_versions_than_letters_are_named(grid):
    results = load_grid(grid)
    runs = [dataclasses.replace(results.runs[0], config={"versions": {"n": str(i)}}) for i in range(30)]
    assert list(find_versions(dataclasses.replace(results, runs=runs)))[25:28] == ["Z", "AA", "AB"]


def test_cells_of_other_code_are_named(grid):
    described = json.loads((grid / "grid.json").read_text())
    change(
        grid / "grid.json", cells=[c | {"code": "c0de" if c["name"] == "bc" else "0ther"} for c in described["cells"]]
    )
    write_report(grid)
    assert "4 of 8 cells come from other code than the package had when the bench last ran" in page_of(grid)


def test_another_grid_that_is_damaged_does_not_stop_the_report(grid, capsys):
    other = grid.parent / "other"
    other.mkdir()
    (other / "grid.json").write_text("\0\0")
    assert report.main([str(grid.parent)]) == 0
    out = capsys.readouterr().out
    assert f"excluded: {other}: " in out and f"report: {grid / 'report' / 'page.html'}" in out


NAMES = ["$x^$", "[/x]", "=1+1", "_x", "+x", "@x", "-x", "<b>", "a|b", "\\x_%&#~^{}", ":smile:", "$\\frac{$"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_names_are_data_everywhere(grid, name):
    path = grid / "grid.json"
    described = json.loads(path.read_text())
    cells = [c | {"name": name if c["name"] == "bc" else c["name"]} for c in described["cells"]]
    for cell in cells:
        cell["env"] = f"{name} {cell['env']}"
    change(path, cells=cells, report={"baseline": name, "tables": REPORT["tables"], "figures": FIGURES})
    write_report(grid)
    shown = f"'{name}" if name[0] in "=+-@" else name
    for csv in ("scores", "environments", "runs", "evaluations"):
        assert shown in set(table(grid, csv)["method"])
    for csv in (grid / "report").glob("*.csv"):
        assert not any(cell[:1] in ("=", "+", "@") for line in csv.open() for cell in line.split(","))
    body = re.sub(r"(?m)^% .*$", "", (grid / "report" / "improvement.tex").read_text())
    assert not re.search(r"(?<!\\)[%_#$]", body)
    lines = [line for line in (grid / "report" / "scores.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert html.escape(name, quote=False) in html.unescape(page_of(grid)) or html.escape(name) in page_of(grid)


def test_reading_a_grid_takes_linear_time(tmp_path):
    """Four times the cells take at most five times as many calls; a quadratic reader takes sixteen times as many."""

    def calls(n: int) -> int:
        folder = tmp_path / str(n)
        cells = [
            {"key": f"k{i}-c", "env": "E-v0", "name": "bc", "method": "bc", "seeds": 1, "dials": {"pairs": i}}
            for i in range(n)
        ]
        for cell in cells:
            write_run(folder / "cells" / cell["key"], [0.5], reward=False)
        about = {"name": "g", "title": "g", "about": "", "file": "", "cells": cells}
        (folder / "grid.json").write_text(json.dumps({**about, "report": REPORT | {"figures": []}}))
        profile = cProfile.Profile()
        results = profile.runcall(load_grid, folder)
        assert all(profile.runcall(results.scores, "bc", setting) is not None for setting in results.settings)
        return pstats.Stats(profile).total_calls

    calls(10)  # imports and caches
    assert calls(160) < 5 * calls(40)


def test_a_grid_without_a_finished_run_is_refused(grid):
    for folder in (grid / "cells").iterdir():
        (folder / "summary.json").unlink()
    with pytest.raises(BadInput, match="no finished run"):
        write_report(grid)
