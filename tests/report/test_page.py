"""The report of a grid, from runs made by hand: its numbers, what it says of what is missing, the same bytes twice."""

import base64
import json
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
from aihf_control.report import figures
from aihf_control.report.figures import curves
from aihf_control.report.load import load_grid
from aihf_control.report.page import write_report
from aihf_control.report.plotting import panels_of
from aihf_control.report.tables import csv, latex, markdown, tables_of

RANDOM, EXPERT = 100.0, 1100.0
REPORT = {"baseline": "bc", "tables": ["scores", "environments", "improvement"]}
FIGURES = ["scores", "curves", "labels", "profiles", "dials", "reward"]
ENVS = ("A-v0", "B-v0")


def lines(scores: list, key: str, reward: bool) -> list[dict]:
    """A log: every seed at step 0, half way and at the end, where it has its score."""
    rows = []
    for seed, score in enumerate(scores):
        for step, share in ((0, 0.1), (50, 0.5), (100, 1.0)):
            value = None if score is None and step == 100 else RANDOM + 1000 * share * (score or 0.0)
            row = {"seed": seed, "step": step, "return": value, "env_steps": step * reward, "labels": 20 * reward}
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


def test_a_run_that_diverged_counts_as_nothing_and_is_told(reported):
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
    for made in tables_of(load_grid(grid)):
        assert "| 4* |" in markdown(made) and "*: fewer than 5 runs" in markdown(made)
        assert "4*" in latex(made) and "4*" not in csv(made)


def test_latex_is_escaped_and_names_its_runs(reported):
    for made in tables_of(load_grid(reported)):
        text = latex(made)
        body = re.sub(r"(?m)^% .*$", "", text)
        assert "95 \\%" in body and not re.search(r"(?<!\\)[%_#$]", body)
        assert text.count("% row ") == len(made.rows) and r"\toprule" in text


# ------------------------------------------------------------------------------------------------------------ the page


class Page(HTMLParser):
    """What of a page the tests look at."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.sources, self.rows, self.tags = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        if tag == "tr":
            self.rows.append([])
        if tag == "a" and self.rows:
            self.rows[-1].append(given["href"])


def test_the_page_needs_nothing_else_and_its_pictures_are_whole(reported):
    text = page_of(reported)
    page = Page(text)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.sources) == 6 and all(s.startswith("data:image/png;base64,") for s in page.sources)
    for source in page.sources:
        assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe"} & set(page.tags) and "http" not in re.sub('base64,[^"]*', "", text)
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


def test_the_same_runs_give_the_same_bytes(reported):
    before = {path.name: path.read_bytes() for path in (reported / "report").iterdir()}
    shutil.rmtree(reported / "report")
    assert report.main([str(reported.parent)]) == 0
    assert {path.name: path.read_bytes() for path in (reported / "report").iterdir()} == before


# ------------------------------------------------------------------------------------------- what is missing or damaged


def test_what_has_not_finished_is_told_and_its_rows_are_empty(grid):
    (grid / "cells" / key_of("aihf", 40, "B-v0") / "summary.json").unlink()
    change(grid / "cells" / key_of("bc", 40, "B-v0") / "summary.json", interrupted=True)
    text = write_report(grid).read_text()
    assert "1 of 8 cells are not finished" in text and "1 of 8 cells were cut short" in text
    rows = table(grid, "scores").set_index(["pairs", "method"])
    assert rows["IQM"].isna().to_dict()[(40, "aihf")] and rows.loc[(40, "bc"), "missing"] == "1 of 2 cells"
    assert rows.loc[(20, "aihf"), "IQM"] > 0
    env = table(grid, "environments").set_index(["environment", "pairs", "method"])
    assert env.loc[("A-v0", 40, "aihf"), "score"] == 1.0 and np.isnan(env.loc[("B-v0", 40, "aihf"), "score"])


def test_curves_have_no_panel_for_what_was_not_run(grid, monkeypatch):
    for method in ("aihf", "bc"):
        (grid / "cells" / key_of(method, 40, "B-v0") / "summary.json").unlink()
    drawn = []
    monkeypatch.setattr(figures, "panels_of", lambda n: drawn.append(n) or panels_of(n))
    assert curves(load_grid(grid)) and drawn == [3]
    (grid / "cells" / key_of("bc", 40, "A-v0") / "summary.json").unlink()
    assert curves(load_grid(grid)) and drawn == [3, 3]  # one of its methods is enough


def test_runs_that_were_not_made_alike_are_told(grid):
    folder = grid / "cells" / key_of("aihf", 40, "B-v0")
    change(folder / "config.json", versions={"python": "4", "torch": "2"})
    change(folder / "summary.json", dataset="d1", overvalued=[2])
    text = write_report(grid).read_text()
    assert "2 sets of versions" in text and "d0, d1" in text and "claim more than any policy can earn" in text


def test_grids_and_other_runs_are_told_apart(grid, capsys):
    assert report.main([str(grid.parent)]) == 0
    assert not (grid.parent / "table.md").exists() and "page.html" in capsys.readouterr().out


@pytest.mark.parametrize("dials", [(), ("demos", "pairs"), ("demos", "pairs", "dataset.error")])
def test_any_number_of_dials_can_be_reported(grid, dials):
    described = json.loads((grid / "grid.json").read_text())
    cells = [c for c in described["cells"] if c["dials"]["pairs"] == 20 or dials]
    for cell in cells:
        cell["dials"] = {name: cell["dials"].get(name, 1) for name in dials}
    change(grid / "grid.json", cells=cells, report=REPORT | {"figures": ["dials", "curves"]})
    write_report(grid)
    assert (grid / "report" / "dials.png").exists() == (len(dials) == 2)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("grid.json", lambda t: "{", "not valid JSON"),
        ("grid.json", lambda t: t.replace('"title"', '"titel"'), "title missing or wrong"),
        ("grid.json", lambda t: t.replace('"seeds": 5', '"seeds": "5"'), "seeds missing or wrong"),
        ("grid.json", lambda t: t.replace('{"pairs": 40}', "{}"), "the same dials"),
        ("grid.json", lambda t: t.replace('"improvement"', '"improvment"'), "settings"),
        ("log.jsonl", lambda t: t[: len(t) // 2], "not a run's log"),
        ("log.jsonl", lambda t: t.replace('"labels"', '"label"'), "not a run's log"),
        ("log.jsonl", lambda t: "\n".join(t.splitlines()[:6]), "has no line of seed 2"),
        ("summary.json", lambda t: t.replace('"random_return"', '"random"'), "random_return missing or wrong"),
        ("summary.json", lambda t: t.replace('"seeds": [0, 1', '"seeds": [1'), "has 4 seeds"),
        ("config.json", lambda t: "[]", "cell, dataset, options, versions missing or wrong"),
    ],
)
def test_damage_is_named_in_one_line(grid, capsys, name, damage, told):
    path = grid / name if name == "grid.json" else grid / "cells" / key_of("aihf", 20, "A-v0") / name
    path.write_text(damage(path.read_text()))
    assert report.main([str(grid)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err


def test_a_grid_without_a_finished_run_is_told(grid):
    for folder in (grid / "cells").iterdir():
        (folder / "summary.json").unlink()
    with pytest.raises(BadInput, match="no finished run"):
        write_report(grid)
