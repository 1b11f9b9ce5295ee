import contextlib
import importlib.metadata
import io
import json
import subprocess
import sys

import pytest

from aihf_control.__main__ import COMMANDS, main
from aihf_control.core import placeholders
from aihf_control.methods import registry
from tests.helpers import ROOT

LINES = [
    *([command, "--help"] for command in COMMANDS),
    *(["run", "--method", method, "-h"] for method in registry.list_own_names()),
    *(["data", verb, "--help"] for verb in ("make", "import", "export", "show", "verify")),
    *(["experts", verb, "--help"] for verb in ("train", "import", "show", "card", "search")),
    *(["bench", verb, "--help"] for verb in ("plan", "run", "report")),
]
PRINT_ALL = """
import json, sys
from aihf_control.core.placeholders import Placeholder, install_for_help
install_for_help(["--help"])
from tests.commands.test_help import LINES, help_of
print(json.dumps([help_of(line) for line in LINES]))
import torch
assert isinstance(torch, Placeholder)
"""


def help_of(line):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(line)
    return out.getvalue()


def test_help_is_the_same_with_placeholders_for_slow_packages(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = subprocess.run([sys.executable, "-c", PRINT_ALL], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line, printed in zip(LINES, json.loads(done.stdout), strict=True):
        assert printed == help_of(line) and "--help" in printed, line


@pytest.mark.parametrize("line", [["-m", "aihf_control.run", "-h"], ["-X", "dev", "-m", "aihf_control.data", "--help"]])
def test_a_command_that_is_asked_for_help_loads_no_torch(line):
    done = subprocess.run([sys.executable, "-v", *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage: python -m aihf_control" in done.stdout
    assert "aihf_control.models.functional" in done.stderr and "torch/__init__" not in done.stderr


@pytest.mark.parametrize(
    ("line", "installed"),
    [
        (["python", "-m", "aihf_control.run", "--help"], True),
        (["python", "-m", "aihf_control.run", "--help-all"], True),
        (["python", "-m", "aihf_control.run", "--env", "Hopper-v4"], False),
        (["python", "-m", "aihf_control.run", "--resume=results/x", "--help"], False),
        (["python", "-m", "aihf_control.run", "--method=plugin", "--help"], False),
        (["python", "-m", "somebody.else", "--help"], False),
        (["python", "-m"], False),
    ],
)
def test_placeholders_are_for_help_of_own_modules(line, installed, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    plugins = importlib.metadata.EntryPoints([importlib.metadata.EntryPoint("plugin", "a.b", registry.GROUP)])
    monkeypatch.setattr(placeholders, "entry_points", lambda group: plugins.select(group=group))
    placeholders.install_for_module(line)
    assert bool(sys.meta_path) == installed
