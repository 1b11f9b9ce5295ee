"""What the README promises: its ten lines of Python run, its commands exist, its line counts are true."""

import functools
import re
from pathlib import Path

import pytest

import aihf_control as aihf
from aihf_control import compare, methods, retrain, run
from aihf_control.bench import __main__ as bench
from aihf_control.data.__main__ import main as data_main
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.report import __main__ as report
from aihf_control.speed import __main__ as speed
from aihf_control.yardstick import __main__ as yardstick
from tests.helpers import tiny

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_door_opens(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aihf, "make_dataset", lambda env: dataset, raising=False)
    quick = functools.partial(aihf.train, steps=8, cfg=tiny("aihf"), pairs=20, evaluations=2, eval_episodes=1)
    monkeypatch.setattr(aihf, "train", functools.partial(quick, final_episodes=1), raising=False)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    scope: dict = {}
    exec(code, scope)
    assert scope["action"].shape == (3,) and len(scope["result"].frame) == 5 * 3


def test_every_command_of_the_readme_has_a_door(capsys):
    words = re.findall(r"python -m aihf_control\.(\w+)(?: (make|show|train|import|export|verify))?", README)
    doors = {"run": run.main, "data": data_main, "experts": experts_main}
    doors |= {
        "bench": bench.main,
        "compare": compare.main,
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


def test_every_flag_of_the_readme_is_known(capsys):
    for line in "\n".join(blocks("bash")).splitlines():
        found = re.search(r"python -m aihf_control\.run (.*?)(?:\s+#|$)", line)
        if found and "--help" not in found[1] and "--resume" not in found[1]:
            options, cfg = run.parse(found[1].split())
            assert options.method in methods.names() and cfg.steps > 0


def test_line_counts_are_true():
    counted = re.findall(r"\| `(aihf_control/[\w/]+\.(?:py|c))` \| (\d+) \|", README)
    assert counted, "the README lists no files"
    for path, n in counted:
        assert len((ROOT / path).read_text().splitlines()) == int(n), path
