"""The table and the figure of finished runs, from summaries made by hand."""

import json
import re
import subprocess
import sys

import pytest

from aihf_control.core.errors import BadInput
from aihf_control.core.text import duration
from aihf_control.report import __main__ as report
from aihf_control.report import runs
from aihf_control.report.runs import report_folder, report_runs


def estimated(value: float) -> dict:
    return {"value": value, "low": value - 1, "high": value + 1, "n": 3}


def write_run(folder, method: str, score: float) -> None:
    row = {"return": estimated(1000 * score), "score": estimated(score), "n": 3}
    rows = [{"name": "expert", **row}, {"name": method, **row, "env_steps": 10, "labels": 0}, {"name": "late", **row}]
    summary = {"env": "E-v0", "method": method, "demos": 1, "pairs": 20, "dataset": "abc", "diverged": [], "rows": rows}
    summary |= {"steps": 10, "interrupted": False}
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    log = [
        {"seed": s, "step": k, "env_steps": k, "labels": 0, "return": 100.0 * s + k} for s in range(3) for k in (0, 10)
    ]
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


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
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
    steps, returns = runs.finite_curve(runs.load_run(tmp_path / "a").log)
    assert steps.tolist() == [0, 10] and returns.shape == (2, 2)


def test_a_fully_diverged_run_is_a_row_beside_the_others(tmp_path):
    write_run(tmp_path / "good", "good", 0.5)
    write_run(tmp_path / "ill", "ill", 0.5)
    path = tmp_path / "ill" / "summary.json"
    summary = json.loads(path.read_text())
    summary["rows"][1] = {"name": "ill", "n": 0, "env_steps": 10, "labels": 0}
    path.write_text(json.dumps(summary | {"diverged": [0, 1, 2]}))
    log = tmp_path / "ill" / "log.jsonl"
    log.write_text(re.sub(r'"return": [^}]+', '"return": null', log.read_text()))
    assert report.main([str(tmp_path)]) == 0
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert rows[-1].startswith("| ill (10 iterations) | - | - | 0* |") and rows[-1].endswith("| 3 |")
    assert rows[-2].startswith("| good (10 iterations) |")


def test_each_broken_run_is_excluded_by_name(tmp_path, capsys):
    damages = {
        "absent": lambda run: (run / "summary.json").unlink(),
        "half": lambda run: (run / "summary.json").write_text((run / "summary.json").read_text()[:40]),
        "zeros": lambda run: (run / "log.jsonl").write_bytes(b"\0" * 50),
        "foreign": lambda run: (run / "summary.json").write_text('{"loss": 3}'),
        "rows": lambda run: (run / "summary.json").write_text(
            json.dumps(json.loads((run / "summary.json").read_text()) | {"rows": [{"name": 3}] * 3})
        ),
        "no log": lambda run: (run / "log.jsonl").unlink(),
        "directory": lambda run: ((run / "log.jsonl").unlink(), (run / "log.jsonl").mkdir()),
    }
    write_run(tmp_path / "good", "good", 0.5)
    for name, damage in damages.items():
        write_run(tmp_path / name, name, 0.5)
        damage(tmp_path / name)
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    for name in damages:
        assert f"excluded: {tmp_path / name}: " in text
    assert "good (10 iterations)" in text and text.count("excluded: ") == len(damages)
    (tmp_path / "good" / "log.jsonl").unlink()
    capsys.readouterr()
    assert report.main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no run below") and "7 more" in err and err.count("\n") == 1


def test_wrong_types_in_a_summary_never_end_in_a_traceback(tmp_path):
    write_run(tmp_path / "bad", "bad", 0.5)
    path = tmp_path / "bad" / "summary.json"
    whole = json.loads(path.read_text())
    for name in whole:
        for value in (None, True, 1e999, 10**400, "", [], [None], [[]] * 3, [{}] * 3, {}, "$x$|<b>"):
            path.write_text(json.dumps(whole | {name: value}))
            try:
                loaded = runs.load_run(tmp_path / "bad")
            except BadInput as e:
                assert "\n" not in str(e), (name, value)
            else:
                assert "iterations" in runs.format_table([[loaded]]) and runs.draw_runs([[loaded]])


@pytest.mark.slow
def test_many_datasets_make_a_figure_of_bounded_size(tmp_path):
    for i in range(runs.PANELS + 2):
        write_run(tmp_path / str(i), "a", 0.5)
        path = tmp_path / str(i) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": str(i)}))
    found = [runs.load_run(tmp_path / str(i)) for i in range(runs.PANELS + 2)]
    assert "curves.png shows the first 48 of 50 datasets" in report_runs(tmp_path, found)


HEAVY = {"torch", "gymnasium", "mujoco", "pandas", "matplotlib", "scipy", "jinja2"}


@pytest.mark.parametrize("command", ["report.__main__", "compare", "bench.__main__"])
def test_help_loads_no_heavy_package_and_is_fast(command):
    code = f"""
import json, sys, time
try:
    import importlib
    importlib.import_module("aihf_control.{command}").main(["--help"])
except SystemExit:
    pass
print()
print(json.dumps([sorted(sys.modules), time.process_time()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, seconds = json.loads(done.stdout.splitlines()[-1])
    assert "usage:" in done.stdout and not HEAVY & set(modules) and seconds < 1.5


def test_the_report_needs_neither_torch_nor_an_environment():
    code = "import sys, aihf_control.report.runs; print('torch' in sys.modules, 'gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_durations_read_well():
    assert [duration(x) for x in (12, 600, 7200)] == ["12 s", "10 min", "2.0 h"]
