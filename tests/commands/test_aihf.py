"""The command `aihf` itself."""

import pytest

from aihf_control import __version__, run
from aihf_control.__main__ import ABOUT, COMMANDS, main
from aihf_control.experts.__main__ import main as experts


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert list(ABOUT) == list(COMMANDS) and all(f"  {name} " in out for name in COMMANDS)


def test_without_a_command_it_prints_its_usage(capsys):
    assert main([]) == 2 and "usage: aihf COMMAND" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"aihf_control {__version__}\n"


@pytest.mark.parametrize(
    ("command", "typed", "said"),
    [
        (main, "rnu", "error: unknown command 'rnu'; did you mean 'run'?\n"),
        (main, "xyz", f"error: unknown command 'xyz'; commands are {', '.join(COMMANDS)}\n"),
        (experts, "tarin", "error: unknown command 'tarin'; did you mean 'train'?\n"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest(command, typed, said, capsys):
    assert command([typed]) == 2 and capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("command", "line", "usage"),
    [
        (main, ["run", "--help"], "usage: aihf run "),
        (main, ["experts", "train", "--help"], "usage: aihf experts train "),
        (run.main, ["--help"], "usage: python -m aihf_control.run "),
        (experts, ["train", "--help"], "usage: python -m aihf_control.experts train "),
    ],
)
def test_usage_names_the_command_as_it_was_started(command, line, usage, capsys):
    with pytest.raises(SystemExit):
        command(line)
    assert usage in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code"), [(["bash"], 0), (["zsh"], 0), (["fish"], 2), ([], 2)])
def test_completion(words, code, capsys):
    assert main(["--completion", *words]) == code
    assert ("complete -o default -F _aihf aihf" in capsys.readouterr().out) == (code == 0)
