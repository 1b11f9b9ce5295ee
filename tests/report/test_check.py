"""The check of runs against their logs, and the leaderboard that is made of checked runs only."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from aihf_control.core.statistics import aggregate, iqm_of_all
from aihf_control.report import __main__ as report
from aihf_control.report.check import check_folder, compare_run
from aihf_control.report.load import load_grid
from aihf_control.report.tables import rng
from tests.helpers import ROOT

SMALL = ROOT / "results/bench/small"
KEY = "0bd2365ffca5-d9f95e84"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A committed grid, to be changed."""
    shutil.copytree(SMALL, tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def run(tmp_path) -> Path:
    """One run of it, which belongs to no grid here."""
    shutil.copytree(SMALL / "cells" / KEY, tmp_path / "runs" / "one")
    return tmp_path / "runs" / "one"


def test_committed_runs_agree_with_their_logs(capsys):
    assert report.main(["--check", str(SMALL)]) == 0
    out = capsys.readouterr().out
    assert f"numbers of {len(list(SMALL.glob('cells/*')))} runs agree with their logs" in out
    assert "not computed again: the returns of the expert" in out


def test_every_kind_of_number_is_compared(run):
    kinds = " ".join(one.where for one in compare_run(run))
    for word in ("return in line", "value of score of", "low of return of", "labels of", "diverged", "clone (bc)"):
        assert word in kinds


def change_row(run: Path, name: str, **fields) -> None:
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    row = next(row for row in summary["rows"] if row["name"] in (name, f"{summary['method']}{name}"))
    row.update(fields)
    path.write_text(json.dumps(summary))


def change_line(run: Path, number: int, **fields) -> None:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | fields)
    path.write_text("\n".join(lines) + "\n")


def change_file(run: Path, name: str, **fields) -> None:
    path = run / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


FALSE = [
    (lambda run: change_row(run, "", env_steps=7), "env_steps of"),
    (lambda run: change_row(run, "", score={"value": 0.99, "low": 0.9, "high": 1.0, "n": 5}), "value of score of"),
    (lambda run: change_row(run, "", score=0.99), "value of score of"),
    (lambda run: change_row(run, ", last 5 means", **{"return": None}), "value of return of"),
    (lambda run: change_line(run, 3, **{"return": 9999.0}), "return in line 3 of log.jsonl is 9999.0"),
    (lambda run: change_line(run, 2, returns=[]), "has no returns of episodes"),
    (lambda run: change_file(run, "summary.json", expert_return=1.0), "value of score of"),
    (lambda run: change_file(run, "summary.json", diverged=[1]), "diverged in summary.json is [1]"),
    (lambda run: change_file(run, "summary.json", method="ours"), "method in summary.json is ours"),
    (lambda run: change_file(run, "summary.json", dataset="other"), "dataset in summary.json"),
    (lambda run: change_file(run, "summary.json", interrupted=True), "cut short"),
    (lambda run: change_file(run, "summary.json", rows=[3]), "rows of summary.json are wrong"),
    (lambda run: (run / "log.jsonl").write_text("{"), "not valid JSON"),
]


@pytest.mark.parametrize(("damage", "reason"), FALSE)
def test_a_false_number_is_named_in_a_line(run, capsys, damage, reason):
    damage(run)
    assert report.main(["--check", str(run.parent)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(reason in line and str(run) in line for line in lines[:-1]) and lines[-1].startswith("error: ")


def test_a_report_that_the_logs_do_not_give_is_refused(folder, capsys):
    path = folder / "report" / "scores.csv"
    path.write_text(path.read_text().replace("rlhf,0.", "rlhf,1."))
    assert report.main(["--check", str(folder)]) == 2
    assert "scores.csv: 1 rows are not what the logs give" in capsys.readouterr().err


def test_runs_of_one_dataset_have_the_same_references(folder, capsys):
    change_file(folder / "cells" / KEY, "summary.json", random_return=-50.0)
    assert report.main(["--check", str(folder)]) == 2
    assert "its runs state different returns of the expert" in capsys.readouterr().err


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    for line in (["--check", str(tmp_path)], [str(tmp_path), "--leaderboard", str(tmp_path / "out")], []):
        assert report.main(line) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    assert report.main(["--check", str(tmp_path), "--leaderboard", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------- leaderboard


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "leaderboard.csv").open() as f:
        return list(csv.DictReader(f))


def test_a_leaderboard_has_a_row_a_method_best_first(folder, tmp_path):
    out = tmp_path / "out"
    assert report.main([str(folder), "--leaderboard", str(out)]) == 0
    rows, grid = rows_of(out), load_grid(folder)
    assert {row["method"] for row in rows} == set(grid.methods)
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    for row in rows:
        (setting,) = grid.settings
        expected = aggregate(grid.scores(row["method"], setting), iqm_of_all, rng())
        assert (float(row["score"]), float(row["score low"])) == (expected.value, expected.low)
        assert row["command"] == "python -m aihf_control.bench experiments/small.toml" and row["n"] == str(expected.n)
    page, text = (out / "page.html").read_text(), (out / "README.md").read_text()
    for shown in (page, text):
        assert all(row["experts"] in shown and row["commit"] in shown for row in rows)
    assert "Hopper-v4 3228" in text and "returns 3228" in page and "http" not in page


def test_a_row_from_outside_is_a_folder_with_runs(run, folder, tmp_path):
    out = tmp_path / "out"
    change_file(run, "config.json", commit="outside")
    assert report.main([str(folder), str(run.parent), "--leaderboard", str(out)]) == 0
    (row,) = [row for row in rows_of(out) if row["commit"] == "outside"]
    (same,) = [r for r in rows_of(out) if r["method"] == row["method"] and r["commit"] != "outside"]
    assert row["score"] == same["score"] and row["experts"] == same["experts"]
    assert row["command"].startswith("python -m aihf_control.run --env Hopper-v4 --method ")


def test_a_false_row_is_refused_and_nothing_is_written(run, tmp_path, capsys):
    change_row(run, "", env_steps=7)
    assert report.main([str(run.parent), "--leaderboard", str(tmp_path / "out")]) == 2
    assert "env_steps of" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_runs_of_the_same_cell_count_once(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again" / "small")
    out = tmp_path / "out"
    assert report.main([str(folder), str(tmp_path / "again"), "--leaderboard", str(out)]) == 0
    assert len(rows_of(out)) == len(load_grid(folder).methods)


def test_the_committed_leaderboard_is_of_the_committed_runs():
    rows = rows_of(ROOT / "results/leaderboard")
    main = {row["method"]: row for row in rows if row["results"] == "results/bench/main"}
    grid = load_grid(ROOT / "results/bench/main")
    for method in grid.methods:
        expected = aggregate(grid.scores(method, {}), iqm_of_all, rng())
        assert float(main[method]["score"]) == expected.value
    assert check_folder(ROOT / "results/bench/main")[0] == len(grid.runs)
