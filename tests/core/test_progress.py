"""Reports of progress, tables that fit the terminal, and the levels of help."""

import dataclasses
import io
import subprocess
import sys

import pytest
import tyro

from aihf_control.core.cli import ends_with_reader, make_console, print_table
from aihf_control.core.completion import script
from aihf_control.core.help import docs_of, rare
from aihf_control.core.live import LiveLine, make_bar
from aihf_control.core.progress import counted, listening, named, report
from tests.helpers import ROOT


def test_a_phase_is_counted_from_0_to_its_total():
    seen = []
    with listening(lambda *phase: seen.append(phase), every=0.0):
        assert list(counted(2, "cloning")) == [0, 1]
    assert seen == [("cloning", 0, 2), ("cloning", 1, 2), ("cloning", 2, 2)]


def test_nobody_needs_to_listen():
    assert list(counted(2, "cloning")) == [0, 1]


def test_the_outermost_name_counts():
    seen = []
    with listening(lambda name, *_: seen.append(name), every=0.0), named("first evaluation"), named("inner"):
        report("playing episodes", 1, 2)
    report("nobody listens", 1, 2)
    assert seen == ["first evaluation"]


def test_between_the_first_and_the_last_report_some_are_left_out():
    seen = []
    with listening(lambda *phase: seen.append(phase), every=1e9):
        list(counted(1000, "a"))
        list(counted(1, "b"))
    assert seen == [("a", 0, 1000), ("a", 1000, 1000), ("b", 0, 1), ("b", 1, 1)]


def test_the_live_line_shows_the_count_and_the_time_left(monkeypatch):
    now = iter([0.0, 10.0])
    monkeypatch.setattr("aihf_control.core.live.time.monotonic", lambda: next(now))
    bar = make_bar()
    line = LiveLine(bar, "aihf")
    line("cloning", 0, 5000)
    line("cloning", 1250, 5000)
    assert bar.tasks[0].fields["line"] == "cloning 1,250 of 5,000  30 s left"


HEAD, ROWS = ("", "return", "score"), [("aihf, last 5 means", "3228 [3226, 3230]", "0.95 [0.87, 1.00]")]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_a_table_is_never_cut(width):
    out = io.StringIO()
    console = make_console(file=out)
    console.width = width
    print_table(console, HEAD, ROWS)
    assert all(cell in out.getvalue() for row in ROWS for cell in row) and "…" not in out.getvalue()
    assert ("return  3228" in out.getvalue()) == (width < 80)  # stacked


@dataclasses.dataclass(frozen=True)
class Group:
    lr: float = 0.1
    """Learning rate."""


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 3
    """Number of
    steps."""
    port: int = rare(80)
    """Port of the page."""
    group: Group = Group()


@ends_with_reader
def command(argv):
    tyro.cli(Settings, args=argv)
    return 0


@pytest.mark.parametrize(("flag", "all_shown"), [("--help", False), ("-h", False), ("--help-all", True)])
def test_short_help_leaves_out_rare_settings_and_groups(flag, all_shown, capsys):
    with pytest.raises(SystemExit) as ended:
        command([flag])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "--steps" in out and "Number of" in out
    assert ("--port" in out) == ("--group.lr" in out) == all_shown
    assert ("--help-all shows" in out) != all_shown


def test_the_settings_that_help_leaves_out_can_be_given():
    assert command(["--port", "1", "--group.lr", "2"]) == 0


def test_docstrings_of_fields_are_found():
    assert docs_of(Settings) == {"steps": "Number of steps.", "port": "Port of the page."}


@pytest.mark.parametrize(("typed", "found"), [("ru", ["run"]), ("re", ["report", "retrain"]), ("x", [])])
def test_bash_completes_commands(typed, found):
    words = f'COMP_WORDS=(aihf {typed}) COMP_CWORD=1\n_aihf\necho "${{COMPREPLY[@]}}"'
    code = script("bash", ["run", "report", "retrain"])
    done = subprocess.run(["bash", "-c", f"{code}\n{words}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == found


def test_bash_completes_flags():
    code = f'aihf() {{ {sys.executable} -m aihf_control "$@"; }}\n{script("bash", ["bench"])}'
    line = f'{code}\nCOMP_WORDS=(aihf bench --dr) COMP_CWORD=2\n_aihf\necho "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--dry-run"]
