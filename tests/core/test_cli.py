"""Commands whose output is a pipe that nobody reads, and the width of what they print."""

import importlib
import os
import subprocess
import sys

import pytest

from aihf_control.__main__ import COMMANDS
from aihf_control.core.cli import CLOSED_PIPE, FILE_WIDTH, ends_with_reader, exit_code, make_console
from aihf_control.core.errors import BadInput
from aihf_control.core.text import count
from tests.helpers import ROOT

PRINT = """
import sys
from aihf_control.core.cli import ends_with_reader, make_console
sys.exit(ends_with_reader(lambda argv: make_console().print("x"))())
"""


def run_unread(*words: str) -> tuple[int, str]:
    """Run Python with a stdout whose reader has ended; return its exit code and stderr."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words", [["-m", "aihf_control", "data", "make", "--help"], ["-m", "aihf_control.compare", "-h"], ["-c", PRINT]]
)
def test_a_command_ends_without_a_message_when_its_reader_has(words):
    assert run_unread(*words) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("module", ["__main__", *COMMANDS.values()])
def test_every_command_does(module):
    assert hasattr(importlib.import_module(f"aihf_control.{module}").main, "__wrapped__")


def test_another_broken_pipe_is_reported():
    def main(argv):
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError, match="of a worker"):
        ends_with_reader(main)([])


def test_output_to_a_file_has_a_fixed_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console().width == FILE_WIDTH


def test_a_noun_agrees_with_its_number():
    assert [count(n, "seed") for n in (0, 1, 2000)] == ["0 seeds", "1 seed", "2,000 seeds"]


def test_a_commands_exit_code_is_its_own_or_0(capsys):
    assert [exit_code(lambda: None), exit_code(lambda code: code, 143)] == [0, 143]

    def refuse():
        raise BadInput("--seeds must be at least 1, got 0")

    assert exit_code(refuse) == 2 and capsys.readouterr().err == "error: --seeds must be at least 1, got 0\n"


@pytest.mark.parametrize(("fault", "code"), [(OSError(36, "too long", "a" * 300), 2), (OSError("of no path"), None)])
def test_only_a_fault_of_a_path_is_bad_input(fault, code, capsys):
    def fail():
        raise fault

    if code is None:
        with pytest.raises(OSError, match="of no path"):
            exit_code(fail)
    else:
        assert exit_code(fail) == code and "too long; give another path" in capsys.readouterr().err
