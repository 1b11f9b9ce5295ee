"""Paths that no file system accepts end every command in one line."""

import pytest

from aihf_control.__main__ import main

LONG = "a" * 300
LINES = {
    "run": f"--env Hopper-v4 --method bc --folder {LONG}",
    "run --resume": f"--resume {LONG}",
    "run --dataset": f"--dataset {LONG}",
    "data make": f"make --env Hopper-v4 --out {LONG}",
    "data import": f"import --env Hopper-v4 --out made --pool {LONG}",
    "data show": f"show {LONG}",
    "data verify": f"verify {LONG}",
    "data export": f"export {LONG} --minari a-v0",
    "experts show": f"show {LONG} --env Hopper-v4",
    "experts import": f"import {LONG} --env Hopper-v4 --out made.zip",
    "experts card": f"card Hopper-v4 --folder {LONG} --episodes 1",
    "experts train": f"train --env Hopper-v4 --out {LONG}",
    "experts search": f"search --env Hopper-v4 --out {LONG}",
    "bench": f"{LONG}",
    "report": f"{LONG}",
    "compare": f"{LONG} {LONG}",
    "play": f"Hopper-v4:expert --length 2 --out {LONG}.gif",
    "retrain": f"{LONG}",
    "yardstick": f"--table --out {LONG}",
    "speed": f"--sbx {LONG}",
}


@pytest.mark.parametrize("name", LINES)
def test_a_path_that_is_too_long_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, *_ = name.split()
    assert main([command, *LINES[name].split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not list(tmp_path.iterdir())
