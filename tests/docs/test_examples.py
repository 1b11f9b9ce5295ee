"""Code blocks of the pages: Python is run, commands of how-to pages are run small, all others are parsed."""

import functools
import importlib
import os
import re
import shlex
import signal
import sys
import tomllib
from pathlib import Path

import pytest
import tyro
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

import aihf_control as aihf
from aihf_control.__main__ import COMMANDS
from tests.helpers import flags, in_this_process, small_config, tiny

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
RUN = ("own_environment.md", "own_data.md", "resume.md")
"""How-to pages whose commands are run, in their order, in an empty folder."""
PYTHON_RUN_ELSEWHERE = {
    "README.md": "test_readme.py::test_the_quickstart_runs",
    "own_method.md": "test_readme.py::test_the_worked_example_trains",
}
OTHER_PROGRAMS = {"pip", "python3", "source", ".", "pytest", "sphinx-build", "ray", "export"}
SMALL = {
    "run": "--pairs 20 --eval-episodes 1 --final-episodes 2 --evaluations 2 --workers 1 --device cpu",
    "data make": "--demos 3 --episodes 4 --pairs 30 --test-pairs 10",
    "experts search": "--iterations 10 --episodes 1",
}


def parse(page: Path, python=None, bash=None):
    """The examples of a page, of Python, of the shell or of TOML."""
    evaluators = {"python": python, "bash": bash, "toml": read_toml}
    return list(Sybil([CodeBlockParser(*item) for item in evaluators.items() if item[1]]).parse(page))


def read_toml(example) -> None:
    assert tomllib.loads(example.parsed)


def has(page: Path, language: str) -> bool:
    return f"```{language}\n" in page.read_text()


def commands_of(text: str) -> list[str]:
    """The commands of a shell block, without comments; words in capitals such as HOST stay as they are."""
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def door_of(command: str) -> tuple[str, list[str]] | None:
    """The command's name and its arguments, or None for a program that is not this package's."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"] and words[2].startswith("aihf_control."):
        return words[2].removeprefix("aihf_control."), words[3:]
    if words[0] == "aihf" and len(words) > 1:
        return words[1], words[2:]
    assert words[0] in OTHER_PROGRAMS, f"{command}: not a command of this package, nor one that pages may name"
    return None


class Parsed(Exception):
    """The arguments of a command were parsed."""


@pytest.fixture
def only_parses(monkeypatch):
    """Commands stop when their arguments are parsed."""
    original = tyro.cli

    def cli(f, **given):
        raise Parsed(original(f, **given))

    def subcommands(commands, argv, module):
        stubs = {name: functools.wraps(command)(lambda *_, **__: None) for name, command in commands.items()}
        raise Parsed(tyro.extras.subcommand_cli_from_dict(stubs, args=argv))

    monkeypatch.setattr(tyro, "cli", cli)
    for name in ("data", "experts"):
        monkeypatch.setattr(importlib.import_module(f"aihf_control.{name}.__main__"), "subcommands", subcommands)


@pytest.mark.parametrize("page", [page for page in PAGES if has(page, "bash")], ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_parsed(page, only_parses):
    def check(example):
        for command in commands_of(example.parsed):
            check_command(command)

    examples = parse(page, bash=check)
    for example in examples:
        example.evaluate()


def check_command(command: str) -> None:
    """Let the package's own parser read a command."""
    found = door_of(command)
    if not found or {"--resume", "hinge"} & set(found[1]):  # needs that run, that method: RUN, test_readme.py
        return
    name, words = found
    main = importlib.import_module(f"aihf_control.{COMMANDS[name]}").main
    try:
        assert main(words) == 0, command  # a command that does nothing but print
    except Parsed:
        pass
    except SystemExit as end:
        assert end.code == 0 and {"--help", "--help-all"} & set(words), f"{command}: exit code {end.code}"


@pytest.fixture
def small_world(monkeypatch, dataset, tmp_path):
    """An empty folder, a small dataset and small runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    train = aihf.train

    def train_small(method, data, seeds=1, pairs=20, annotator=None):
        few = {"evaluations": 2, "eval_episodes": 1, "final_episodes": 1}
        return train(method, data, 1, steps=8, cfg=tiny(method), pairs=20, annotator=annotator, **few)

    monkeypatch.setattr(aihf, "train", train_small, raising=False)
    monkeypatch.setattr(aihf, "make_dataset", lambda env: dataset, raising=False)
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def run_python(example) -> None:
    """Run a block; one that begins with `# name.py` is that module."""
    name = re.match(r"# (\w+)\.py\n", example.parsed)
    if not name:
        PythonEvaluator()(example)
        return
    Path(f"{name[1]}.py").write_text(example.parsed)
    example.namespace |= vars(importlib.import_module(name[1]))


def run_command(command: str, dataset_folder: Path) -> int:
    """Run a command with few steps; return its exit code."""
    found = door_of(command)
    if not found:
        return 0
    name, words = found
    key = f"{name} {words[0]}" if name in ("data", "experts") else name
    if key == "run" and "--resume" not in words:
        method = words[words.index("--method") + 1] if "--method" in words else "aihf"
        words += flags(small_config(method, 20))
        words += [] if "--dataset" in words else ["--dataset", str(dataset_folder)]
    if "--resume" not in words:
        words += SMALL.get(key, "").split()
    return importlib.import_module(f"aihf_control.{COMMANDS[name]}").main(words)


PYTHON = [page for page in PAGES if has(page, "python") and page.name not in {*PYTHON_RUN_ELSEWHERE, *RUN}]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, small_world):
    for example in parse(page, python=run_python):
        example.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own_environment.md", "own_data.md"])
def test_a_how_to_runs_from_its_first_block_to_its_last(page, small_world, dataset_folder):
    def run_all(example):
        for command in commands_of(example.parsed):
            assert run_command(command, dataset_folder) == 0, command

    examples = parse(ROOT / "docs" / page, run_python, run_all)
    assert len(examples) > 3
    for example in examples:
        example.evaluate()
    assert len(list(small_world.glob("results/runs/*/*/*/summary.json"))) == 1


@pytest.mark.slow
def test_the_how_to_of_resuming(small_world, dataset_folder, monkeypatch):
    """The first command is killed by SIGTERM after its first evaluation; the second ends the run."""

    def killed(*args, **kwargs):
        for i, event in enumerate(in_this_process(*args, **kwargs)):
            if i == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield event

    example = parse(ROOT / "docs/resume.md", bash=lambda _: None)[0]
    first, second = commands_of(example.parsed)
    with monkeypatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", killed)
        assert run_command(first, dataset_folder) == 143
    assert not Path("my_run/summary.json").exists()
    assert run_command(second, dataset_folder) == 0
    assert Path("my_run/summary.json").exists()
