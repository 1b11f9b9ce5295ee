"""Commands, flags, links, code and numbers of README and docs."""

import functools
import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aihf_control as aihf
from aihf_control import compare, methods, play, retrain, run
from aihf_control.bench import __main__ as bench
from aihf_control.data.__main__ import main as data_main
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.label import __main__ as label
from aihf_control.methods import registry
from aihf_control.report import __main__ as report
from aihf_control.speed import __main__ as speed
from aihf_control.training.run import RunSpec, train_lanes
from aihf_control.yardstick import __main__ as yardstick
from tests.helpers import small, tiny

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "results/bench/main/report"
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README if language == "python" else TEXT, re.DOTALL)


def test_the_quickstart_runs(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aihf, "make_dataset", lambda env: dataset, raising=False)
    quick = functools.partial(aihf.train, steps=8, cfg=tiny("aihf"), pairs=20, evaluations=2, eval_episodes=1)
    monkeypatch.setattr(aihf, "train", functools.partial(quick, final_episodes=1), raising=False)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    scope: dict = {}
    exec(code, scope)
    assert len(scope["result"].frame) == 5 * 3 and Path("hopper.safetensors").is_file()


def test_every_command_of_the_readme_exists(capsys):
    words = re.findall(r"python -m aihf_control\.(\w+)(?: (make|show|train|import|export|verify))?", TEXT)
    doors = {"run": run.main, "data": data_main, "experts": experts_main}
    doors |= {
        "bench": bench.main,
        "compare": compare.main,
        "label": label.main,
        "play": play.main,
        "report": report.main,
        "retrain": retrain.main,
        "yardstick": yardstick.main,
        "speed": speed.main,
    }
    assert {module for module, _ in words} <= doors.keys()
    for module, verb in sorted(set(words)):
        with pytest.raises(SystemExit) as end:
            doors[module]([*([verb] if verb else []), "--help"])
        assert end.value.code == 0 and "usage" in capsys.readouterr().out


def test_every_flag_of_the_readme_is_known(worked_example):
    for line in "\n".join(blocks("bash")).splitlines():
        found = re.search(r"python -m aihf_control\.run (.*?)(?:\s+#|$)", line)
        if found and "--help" not in found[1] and "--resume" not in found[1]:
            options, cfg, _ = run.parse(found[1].split())
            assert options.method in methods.names() and cfg.steps > 0


def test_line_counts_are_true():
    counted = re.findall(r"\| `(aihf_control/[\w/]+\.(?:py|c))` \| (\d+) \|", TEXT)
    assert counted, "no page lists files"
    for path, n in counted:
        assert len((ROOT / path).read_text().splitlines()) == int(n), path


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", [*PAGES, ROOT / "results/README.md", ROOT / "experiments/README.md"], ids=str)
def test_relative_links_resolve(page):
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


def interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name} low']:.2f}, {row[f'{name} high']:.2f}]"


def test_the_headline_table_is_that_of_the_csv():
    scores = pd.read_csv(MAIN / "scores.csv").set_index("method")
    places = pd.read_csv(MAIN / "environments.csv").set_index(["environment", "method"])
    rows = re.findall(r"^\| (\w+) \| (\d\.\d\d \[.*) \|$", README, re.MULTILINE)
    assert len(rows) == len(scores) - 1  # without the demonstrations
    for method, rest in rows:
        score, own = (
            scores.loc[method],
            [places.loc[env, method] for env in ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4")],
        )
        cells = [interval(score, "IQM"), *(interval(row, "score") for row in own)]
        counts = [f"{score['n']:.0f} each", f"{score['env steps']:,.0f}", f"{score['labels']:.0f}"]
        assert rest.split(" | ") == cells + counts, method


def test_the_probability_of_improvement_is_that_of_the_csv():
    rows = pd.read_csv(MAIN / "improvement.csv").set_index("method")
    assert f"with probability {interval(rows.loc['aihf'], 'P(better than rlhf)')}" in " ".join(README.split())


def test_the_readme_lists_every_method():
    table = README.partition("## Methods")[2].partition("Every method is")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(methods.names())
    assert f"{len(methods.names()) - 1} other methods" in README


@pytest.fixture
def worked_example(monkeypatch, tmp_path) -> Iterator[tuple[types.ModuleType, str]]:
    """The method of docs/own_method.md, registered, and the code that checks it."""
    method, check = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_method.md").read_text(), re.DOTALL)
    path = tmp_path / "hinge.py"  # the help of its flags is read from its source
    path.write_text(method)
    spec = importlib.util.spec_from_file_location("aihf_control.methods.hinge", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    monkeypatch.setattr(methods, "hinge", module, raising=False)
    spec.loader.exec_module(module)
    with registry.register_temporarily("hinge", module):
        yield module, check


def test_the_worked_example_trains(worked_example, dataset):
    module, _ = worked_example
    cell = RunSpec("hinge", small(module.Config(), steps=8), (0, 1), 1, 20, 8, 1, 1, 1)
    rows = [row for event in train_lanes(cell, dataset) for row in getattr(event, "rows", [])]
    assert len(rows) == 4 and np.isfinite([row["return"] for row in rows]).all()


def test_the_worked_example_keeps_the_laws(worked_example, dataset, monkeypatch):
    _, check = worked_example
    monkeypatch.setattr(aihf, "make_dataset", lambda env: dataset, raising=False)
    exec(check, {})
