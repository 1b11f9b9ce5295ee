"""The wheel: it builds without a network, holds the code and the cards, and runs from anywhere."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def ran(*words: str, cwd: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*words], cwd=cwd, env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    ran(*PIP, "wheel", *offline, "-w", str(folder), str(ROOT), cwd=folder)
    (path,) = folder.glob("aihf_control-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ran(*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def test_the_wheel_holds_all_the_code_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (p for p in (ROOT / "aihf_control").rglob("*") if p.is_file() and p.parent.name != "__pycache__")
    code = {str(p.relative_to(ROOT)) for p in files}
    assert code <= held
    assert all(name in code or name.startswith("aihf_control/_envs/") for name in held), held - code


def test_the_wheel_holds_every_card_and_policy(wheel):
    bundled = [p.relative_to(ROOT / "envs") for p in (ROOT / "envs").rglob("*") if p.is_file()]
    if not any(p.name == "card.toml" for p in bundled):
        pytest.skip("envs/ has no card yet")
    held = zipfile.ZipFile(wheel).namelist()
    assert {f"aihf_control/_envs/{p}" for p in bundled} <= set(held)
    if (ROOT / "envs" / "Hopper-v4" / "card.toml").exists():
        assert "aihf_control/_envs/Hopper-v4/card.toml" in held


def test_the_command_runs_from_anywhere(installed, tmp_path):
    message = ran(sys.executable, "-m", "aihf_control.run", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "--method" in message and "--w-pref" in message
    assert not list(tmp_path.iterdir())


def test_the_installed_package_is_the_one_that_runs_and_finds_its_cards(installed, tmp_path):
    code = "from aihf_control.environments.cards import __file__ as f, envs_folder; print(f); print(envs_folder())"
    here, cards = ran(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert Path(here).is_relative_to(installed)
    if (installed / "aihf_control" / "_envs").exists():
        assert Path(cards).is_relative_to(installed)
