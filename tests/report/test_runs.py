"""The table and the figure of finished runs, from summaries made by hand."""

import json

import pytest

from aihf_control.core.errors import BadInput
from aihf_control.report import __main__ as report
from aihf_control.report import runs
from aihf_control.report.runs import report_folder
from aihf_control.training.estimate import duration


def estimated(value: float) -> dict:
    return {"value": value, "low": value - 1, "high": value + 1, "n": 3}


def write_run(folder, method: str, score: float) -> None:
    row = {"return": estimated(1000 * score), "score": estimated(score), "n": 3}
    rows = [{"name": "expert", **row}, {"name": method, **row, "env_steps": 10, "labels": 0}, {"name": "late", **row}]
    summary = {"env": "E-v0", "method": method, "demos": 1, "pairs": 20, "dataset": "abc", "diverged": [], "rows": rows}
    summary |= {"steps": 10, "interrupted": False}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    log = [{"seed": s, "step": k, "return": 100.0 * s + k} for s in range(3) for k in (0, 10)]
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in log))


def test_the_table_has_a_row_a_run_best_first(tmp_path):
    for method, score in (("worse", 0.2), ("better", 0.8)):
        write_run(tmp_path / method, method, score)
    assert report.main([str(tmp_path)]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert names[1:] == ["expert", "better (10 iterations)", "worse (10 iterations)"]
    text = (tmp_path / "table.md").read_text()
    assert "0.80 [-0.20, 1.80] | 3*" in text and text.endswith("fewer than 5 runs, so the interval says little.\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_give_the_same_bytes(tmp_path):
    write_run(tmp_path / "a", "a", 0.5)
    written = []
    for _ in range(2):
        report_folder(tmp_path)
        written.append([(tmp_path / name).read_bytes() for name in ("table.md", "curves.png")])
    assert written[0] == written[1]


def test_a_folder_without_runs_is_told(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no finished run")
    with pytest.raises(BadInput):
        report_folder(tmp_path)


def test_estimates_that_are_not_finite_and_lanes_that_diverged_are_shown(tmp_path):
    write_run(tmp_path / "a", "a", 0.5)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    summary["rows"][1]["pair_accuracy"] = dict.fromkeys(("value", "low", "high")) | {"n": 0}
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary | {"diverged": [2]}))
    log = (tmp_path / "a" / "log.jsonl").read_text().replace("210.0", "null")
    (tmp_path / "a" / "log.jsonl").write_text(log)
    report_folder(tmp_path)
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert rows[-1].endswith("| 1 |")
    steps, returns = runs._curve(tmp_path / "a")
    assert steps.tolist() == [0, 10] and returns.shape == (2, 2)


def test_durations_read_well():
    assert [duration(x) for x in (12, 600, 7200)] == ["12 s", "10 min", "2.0 h"]
