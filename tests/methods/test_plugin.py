"""Methods of other distributions: found by their entry point, run, benched and checked like this package's own."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from aihf_control import methods, run
from aihf_control.bench.fingerprint import code_of
from aihf_control.core.errors import BadInput
from aihf_control.learning.bc import Cloner
from aihf_control.learning.task import Progress
from aihf_control.methods import registry
from aihf_control.testing import check_method
from tests.helpers import in_this_process, words

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def installed(monkeypatch):
    """Put the plug-in's distribution on the path, as pip would install it."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    importlib.invalidate_caches()
    registry.find_plugins.cache_clear()
    yield methods.load("plugin_clone")
    registry.find_plugins.cache_clear()


def test_it_exists_where_it_is_installed_and_only_there(installed):
    assert "plugin_clone" in methods.names() and "plugin_clone" not in registry.list_own_names()
    assert installed.Config().steps == 10


def test_it_has_flags_and_help():
    env = {**os.environ, "PYTHONPATH": f"{PLUGIN}{os.pathsep}{Path(run.__file__).parents[1]}"}
    command = [sys.executable, "-m", "aihf_control.run", "--method", "plugin_clone", "--help-all"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert "Widths of the policy's hidden layers" in done.stdout and "--clone.lr" in done.stdout


def test_it_runs_and_leaves_a_row(installed, dataset_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    line = words("bc", dataset_folder, tmp_path)
    line = [*line[: line.index("--steps")], "--method", "plugin_clone", "--steps", "6", "--clone.batch", "16"]
    assert run.main(line) == 0
    (folder,) = (tmp_path / "Hopper-v4" / "plugin_clone").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["method"] == "plugin_clone" and summary["rows"][-2]["name"] == "plugin_clone"


def test_its_code_is_part_of_a_cells_key(installed, monkeypatch):
    before = code_of("plugin_clone")
    assert before != code_of("bc")
    monkeypatch.setattr(registry, "list_plugin_files", lambda name: [Path(run.__file__)])
    assert code_of("plugin_clone") != before


def test_a_name_that_is_taken_is_refused(monkeypatch):
    entry = types.SimpleNamespace(name="aihf", value="elsewhere", module="elsewhere")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.find_plugins.cache_clear()
    with pytest.raises(BadInput, match="'aihf' of elsewhere has the name of one of this package"):
        methods.names()
    registry.find_plugins.cache_clear()


def test_it_keeps_the_laws(installed, dataset):
    check_method(installed, installed.Config(steps=6), dataset)


def test_a_method_that_forgets_its_state_is_found(installed, dataset):
    class Forgets:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    def train(task, cfg):
        real = Cloner(task, cfg.clone, cfg.hidden)
        yield Progress(real.policy, {})
        for _ in task.iterations(cloner=Forgets()):
            yield Progress(real.policy, real.step())

    module = types.ModuleType("forgets", "A method whose state is not saved.")
    module.__dict__.update(Config=installed.Config, train=train)
    with pytest.raises(AssertionError, match="a resumed run does not give the same bits"):
        check_method(module, dataclasses.replace(installed.Config(), steps=6), dataset)
