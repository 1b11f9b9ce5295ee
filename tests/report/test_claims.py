"""Verdicts on claims, by hand from small grids: holds, does not hold, cannot be told, not run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.report import __main__ as report
from aihf_control.report.claims import judge
from aihf_control.report.load import load_grid
from aihf_control.report.page import write_report
from tests.helpers import ROOT
from tests.report.test_page import change, write_run

CLAIM = {"text": "A is better.", "paper": "2401.00001", "better": "a", "than": "b", "where": {"error": 0.0}}
CONTROL = {"control": {"error": 0.499}}
HIGH, LOW, MIXED = [0.8, 0.9, 1.0, 0.7, 0.6], [0.2, 0.1, 0.3, 0.2, 0.2], [0.1, 0.9, 0.5, 0.3, 0.7]


def make(folder: Path, a=HIGH, b=LOW, a_control=MIXED, b_control=MIXED, **claim) -> Path:
    """A grid of two methods with labels that are right and with labels at random, about which a claim is made."""
    scores = {("a", 0.0): a, ("b", 0.0): b, ("a", 0.499): a_control, ("b", 0.499): b_control}
    cells = []
    for (name, error), own in scores.items():
        key, n = f"{name}{error}-c0de", max(len(x) for x in scores.values() if x)
        cells.append({"key": key, "env": "A-v0", "name": name, "method": name, "seeds": n})
        cells[-1] |= {"dials": {"dataset.error": error}}
        if own:
            write_run(folder / "cells" / key, own, reward=False)
    about = {"name": "regimes/a", "title": "T", "about": "", "file": "", "report": {"figures": []}, "cells": cells}
    folder.mkdir(exist_ok=True)
    (folder / "grid.json").write_text(json.dumps({**about, "claims": [{**CLAIM, **claim}]}))
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def judged(folder: Path):
    grid = load_grid(folder)
    return judge(grid, grid.claims[0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "holds"),
        (CONTROL, "holds"),
        ({"better": "b", "than": "a"}, "does not hold"),
        ({"a": MIXED, "b": MIXED[::-1]}, "cannot be told"),
        ({**CONTROL, "a_control": HIGH, "b_control": [0.0] * 5}, "does not hold"),  # a gain of 0.8, where it is 0.6
        ({**CONTROL, "a_control": HIGH, "b_control": LOW}, "does not hold"),  # as large
        ({**CONTROL, "a": MIXED, "b": MIXED[::-1], "a_control": HIGH, "b_control": LOW}, "cannot be told"),
        ({"a": [0.9], "b": [0.1], "a_control": [0.5], "b_control": [0.5]}, "cannot be told"),  # one seed
        ({"kind": "as good", "a": MIXED, "b": [0.6, 0.5, 0.7, 0.6, 0.6]}, "holds"),  # intervals overlap
        ({"kind": "as good"}, "holds"),
        ({"kind": "as good", "better": "b", "than": "a"}, "does not hold"),
        ({"kind": "not worse", "a": [0.6, 0.6, 0.6, 0.6, 0.6], "b": [0.64] * 5}, "holds"),  # a loss of 0.04
        ({"kind": "not worse", "margin": 0.03, "a": [0.6] * 5, "b": [0.64] * 5}, "does not hold"),
        ({"kind": "not worse", "a": MIXED, "b": MIXED[::-1]}, "cannot be told"),
        ({"pooled": True, "where": {}, "a_control": HIGH, "b_control": LOW}, "holds"),
        ({"pooled": True, "where": {}, "a_control": LOW, "b_control": HIGH}, "cannot be told"),  # better in one of two
        ({"measure": "worst_return"}, "not measured"),
        ({**CONTROL, "b_control": None}, "not run"),
        ({"b_control": None}, "holds"),  # not part of the claim
        ({"than": "a", "than_where": {"error": 0.499}, "a_control": LOW}, "holds"),
        ({"than": "a", "than_where": {"error": 0.499}, "a_control": HIGH[::-1]}, "cannot be told"),
    ],
    ids=str,
)
def test_a_verdict_by_hand(tmp_path, given, expected):
    assert judged(make(tmp_path / "grid", **given)).verdict == expected


def test_the_numbers_of_a_verdict_by_hand(tmp_path):
    found = judged(make(tmp_path / "grid", **CONTROL, a_control=[0.5] * 5, b_control=[0.4, 0.4, 0.4, 0.3, 0.5]))
    assert found.better and found.than and found.gain and found.control and found.chance
    assert (found.chance.value, found.chance.low, found.chance.high, found.chance.n) == (1.0, 1.0, 1.0, 5)
    assert found.better.value == pytest.approx(0.8) and found.than.value == pytest.approx(0.2)
    assert found.gain.value == pytest.approx(np.mean([0.6, 0.7, 0.5]))  # of 0.6 0.8 0.7 0.5 0.4, the middle three
    assert found.control.value == pytest.approx(0.1) and len(found.runs) == 4


def test_a_run_that_diverged_counts_as_a_score_of_0(tmp_path):
    found = judged(make(tmp_path / "grid", a=[None, 0.9, 0.9, 0.9, 0.9]))
    assert found.chance and found.chance.value == pytest.approx(0.8)


def test_another_measure_is_compared_and_a_worst_return_is_on_the_scale_of_the_score(tmp_path):
    folder = make(tmp_path / "grid", measure="worst_return")
    for name, worst in (("a", 600.0), ("b", 350.0)):
        log = folder / "cells" / f"{name}0.0-c0de" / "log.jsonl"
        rows = [json.loads(line) | {"worst_return": worst} for line in log.read_text().splitlines()]
        log.write_text("\n".join(map(json.dumps, rows)) + "\n")
    found = judged(folder)
    assert found.verdict == "holds" and found.better and found.than
    assert (found.better.value, found.than.value) == (pytest.approx(0.5), pytest.approx(0.25))


def test_a_run_that_is_cut_short_is_missing_and_the_claim_is_shown_all_the_same(tmp_path, capsys):
    folder = make(tmp_path / "grid", **CONTROL, a_control=None)
    change(folder / "cells" / "b0.499-c0de" / "summary.json", interrupted=True)
    assert report.main([str(folder)]) == 0
    assert "  A is better (2401.00001): not run (2 of 4 cells).\n" in capsys.readouterr().out
    assert "not run" in (folder / "report/page.html").read_text().partition('id="table-claims"')[2]
    (row,) = rows_of(folder / "report/claims.csv")
    assert row["verdict"] == "not run" and row["missing"] == "2 of 4 cells" and "P" not in row


def test_the_report_has_a_line_a_claim(tmp_path, capsys):
    folder = make(tmp_path / "grid", **CONTROL, a_control=[0.4] * 5, b_control=[0.3] * 5)
    assert report.main([str(folder)]) == 0
    line = (
        "A is better (2401.00001): holds; a is above b (error 0.0) with probability 1.00 [1.00, 1.00], score "
        "0.80 [0.63, 0.97] against 0.20 [0.13, 0.27], n = 5; gain 0.60 [0.43, 0.77], in the control 0.10 [0.10, 0.10]."
    )
    assert f"  {line}\n" in capsys.readouterr().out
    page = (folder / "report/page.html").read_text()
    assert f"<li>Claim: {line}</li>" in page and 'id="table-claims"' in page
    (row,) = rows_of(folder / "report/claims.csv")
    assert (row["verdict"], row["where"], row["n"], row["P"]) == ("holds", "error 0.0", "5", "1.0")
    assert float(row["gain"]) == pytest.approx(0.6) and float(row["gain in the control"]) == pytest.approx(0.1)
    assert "| holds | 1.00 [1.00, 1.00] |" in (folder / "report/claims.md").read_text()


def test_claims_of_many_grids_are_one_csv_and_one_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = Path("bench/small")
    shutil.copytree(ROOT / "results/bench/small", grid, ignore=shutil.ignore_patterns("report"))
    claims = [
        CLAIM | {"better": "aihf", "than": "bc", "where": {}},
        CLAIM | {"better": "bc", "than": "dpo", "where": {}},
    ]
    change(grid / "grid.json", claims=claims, report={"figures": []})
    write_report(grid)
    assert report.main(["bench", "--claims", "out"]) == 0
    assert capsys.readouterr().out == "claims: out/claims.csv\nclaims: out/README.md\n"
    first, second = rows_of(Path("out/claims.csv"))
    assert (first["experiment"], first["better"], first["results"]) == ("small", "aihf", "bench/small")
    assert "| small | A is better. (2401.00001; aihf better than bc) |" in Path("out/README.md").read_text()
    table = grid / "report/claims.csv"
    table.write_text(table.read_text().replace(first["verdict"], "holds?").replace(second["verdict"], "holds?"))
    assert report.main(["bench", "--claims", "out"]) == 2
    assert "claims.csv: 2 rows are not what the logs give" in capsys.readouterr().err


def test_without_claims_there_is_no_table(tmp_path, capsys):
    folder = make(tmp_path / "grid")
    change(folder / "grid.json", claims=[])
    write_report(folder)
    assert not (folder / "report/claims.csv").exists()
    assert 'id="table-claims"' not in (folder / "report/page.html").read_text()


@pytest.mark.parametrize(
    ("claims", "reported"),
    [
        (3, "must be a list"),
        ([3], "give a table"),
        ([{**CLAIM, "where": {"error": 0.2}}], "selects no cell"),
        ([{**CLAIM, "where": {}}], "give a value of error, or pooled = true"),
        ([{**CLAIM, "kind": "not worse", **CONTROL}], "is not compared in a claim of the kind 'not worse'"),
        ([{**CLAIM, "kind": "not worse", "margin": -1.0}], "margin must be at least 0"),
        ([{**CLAIM, "pooled": True, "where": {}, "than_where": {"error": 0.0}}], "selects 1 settings, where selects 2"),
    ],
)
def test_a_damaged_claim_is_named(tmp_path, claims, reported):
    folder = make(tmp_path / "grid")
    change(folder / "grid.json", claims=claims)
    with pytest.raises(BadInput, match=reported):
        load_grid(folder)


def test_one_of_three_flags_is_enough(capsys):
    assert report.main(["x", "--check", "--claims", "out"]) == 2
    assert "give one of --check, --leaderboard and --claims" in capsys.readouterr().err
