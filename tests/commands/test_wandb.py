"""The log that is sent to Weights & Biases."""

import sys

import pytest

from aihf_control import run
from tests.helpers import words


def test_it_has_the_values_of_the_log(dataset_folder, tmp_path, monkeypatch):
    """A stand-in takes what the command sends, so that the test needs neither the package nor its service."""
    sent, ended = [], []

    class Run:
        def define_metric(self, *_, **__): ...
        def log(self, numbers):
            sent.append(numbers)

        def finish(self):
            ended.append(True)

    class Stub:
        Settings = staticmethod(lambda **_: None)
        init = staticmethod(lambda **given: Run())

    monkeypatch.setitem(sys.modules, "wandb", Stub)
    assert run.main([*words("bc", dataset_folder, tmp_path, "--wandb", steps=4), "--folder", str(tmp_path / "a")]) == 0
    assert sent[0]["step"] == 0 and sent[-1]["step"] == 4 and ended == [True]
    assert "seed0/return" in sent[0] and "seed1/step" not in sent[0]


@pytest.mark.slow
def test_offline_it_writes_into_the_runs_folder(dataset_folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "a"
    assert run.main([*words("bc", dataset_folder, tmp_path, "--wandb", steps=4), "--folder", str(folder)]) == 0
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_without_the_package_the_error_names_what_to_install(dataset_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run.main([*words("bc", dataset_folder, tmp_path, "--wandb", steps=4), "--folder", str(tmp_path / "a")]) == 2
    assert "pip install 'aihf_control[wandb]'" in capsys.readouterr().err and not (tmp_path / "a").exists()
