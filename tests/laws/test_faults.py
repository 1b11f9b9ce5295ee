"""Files that a user may have been given, spoilt in every way: each command says so in a line, or is not harmed."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from aihf_control import run
from aihf_control.core.errors import BadInput
from aihf_control.core.types import join
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.experts.__main__ import main as experts_main
from aihf_control.models.saved import load_policy, load_reward
from aihf_control.report import __main__ as report
from aihf_control.yardstick import __main__ as yardstick
from tests.helpers import in_this_process, words


@pytest.fixture(scope="module")
def good(dataset_folder, policy_zips, tmp_path_factory) -> Path:
    """A folder with one of every kind of file that is read."""
    folder = tmp_path_factory.mktemp("good")
    shutil.copytree(dataset_folder, folder / "data")
    shutil.copy(policy_zips["expert"], folder / "policy.zip")
    shutil.copy(dataset_folder / "preferences.csv", folder / "mine.csv")
    steps = join([t.steps() for t in Dataset.load(dataset_folder).pool])
    ends = np.cumsum([len(t) for t in Dataset.load(dataset_folder).pool]) - 1
    truncated = np.isin(np.arange(len(steps.act)), ends)
    columns = {"obs": steps.obs, "act": steps.act, "next_obs": steps.next_obs, "reward": 0 * steps.done}
    np.savez(folder / "mine.npz", **columns, terminated=steps.done > 0, truncated=truncated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", in_this_process)
        assert run.main(words("irl", dataset_folder, folder / "runs")) == 0
    (folder / "csv").mkdir()
    head = "seed,step,seconds,episode,return,env,learner,precision,width"
    (folder / "csv" / "E_ours.csv").write_text(f"{head}\n0,5,2.0,0,1.0,E,ours,float32,8\n")
    return folder


def of_a_run(folder: Path, name: str) -> Path:
    (path,) = (folder / "runs").glob(f"*/*/*/{name}")
    return path


def door(read, path: Path) -> int:
    """A Python door as a command: 2 for bad input."""
    try:
        read(path)
    except BadInput:
        return 2
    return 0


READERS = {
    "data/meta.json": lambda f: data_main(["show", str(f / "data")]),
    "data/preferences.csv": lambda f: data_main(["show", str(f / "data")]),
    "data/pool.npz": lambda f: data_main(["show", str(f / "data")]),
    "mine.csv": lambda f: _import(f, "--pool", str(f / "data"), "--pairs", str(f / "mine.csv")),
    "mine.npz": lambda f: _import(f, "--pool", str(f / "mine.npz"), "--pairs", str(f / "data" / "preferences.csv")),
    "policy.zip": lambda f: experts_main(
        ["import", str(f / "policy.zip"), "--env", "Hopper-v4", "--out", str(f / "clean.zip"), "--force"]
    ),
    "csv/E_ours.csv": lambda f: yardstick.main(["--table", "--out", str(f / "csv")]),
    "runs/*/*/*/summary.json": lambda f: report.main([str(f / "runs")]),
    "runs/*/*/*/log.jsonl": lambda f: report.main([str(f / "runs")]),
    "runs/*/*/*/policy.safetensors": lambda f: door(load_policy, of_a_run(f, "policy.safetensors")),
    "runs/*/*/*/reward.safetensors": lambda f: door(load_reward, of_a_run(f, "reward.safetensors")),
    "runs/*/*/*/config.json": lambda f: _resume(f),
}


def _import(folder: Path, *words: str) -> int:
    expert = ["--expert", str(folder / "policy.zip")]
    return data_main(["import", "--env", "Hopper-v4", "--out", str(folder / "made"), "--force", *words, *expert])


def _resume(folder: Path) -> int:
    path = of_a_run(folder, "config.json")
    (path.parent / "summary.json").unlink(missing_ok=True)
    (path.parent / "checkpoint").mkdir(exist_ok=True)
    try:
        return run.main(["--resume", str(path.parent)])
    except SystemExit as e:  # tyro's own, where a default of the file's fits no flag
        return int(e.code or 0)


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthened(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 50))


def scrambled(data: bytes, rng: random.Random) -> bytes:
    at, n = rng.randrange(len(data)), rng.randrange(1, 40)
    return data[:at] + rng.randbytes(n) + data[at + n :]


def emptied(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"{}", b"[]", b"null", b"\xff\xfe\x00"])


@pytest.mark.parametrize("spoil", [flipped, cut, lengthened, scrambled, emptied])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_is_refused_in_a_line_or_does_no_harm(good, tmp_path, name, spoil, seed, capsys, monkeypatch):
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    shutil.copytree(good, tmp_path / "f")
    (path,) = (tmp_path / "f").glob(name)
    path.write_bytes(spoil(path.read_bytes(), random.Random(f"{name}/{spoil.__name__}/{seed}")))
    code = READERS[name](tmp_path / "f")
    err = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in err
    assert code == 0 or not (tmp_path / "f" / "made").exists()
    if spoil is emptied:
        assert code == 2


def test_a_datasets_hash_finds_every_change_of_its_data(good, tmp_path, capsys):
    rng, found, tried = random.Random(0), 0, 0
    for name in ("preferences.csv", "pool.npz"):
        for spoil in (flipped, cut, lengthened, scrambled):
            for _ in range(5):
                folder = tmp_path / str(tried)
                shutil.copytree(good / "data", folder)
                data = (folder / name).read_bytes()
                (folder / name).write_bytes(spoil(data, rng))
                tried += data != (folder / name).read_bytes()
                found += data_main(["show", str(folder)]) == 2
    assert found == tried >= 38
    assert "Traceback" not in capsys.readouterr().err


def test_names_in_files_never_leave_their_folder(good, tmp_path, capsys):
    shutil.copytree(good / "data", tmp_path / "data")
    meta = json.loads((tmp_path / "data" / "meta.json").read_text())
    meta["sha256"] = {f"../../../{name}": digest for name, digest in meta["sha256"].items()}
    (tmp_path / "data" / "meta.json").write_text(json.dumps(meta))
    assert data_main(["show", str(tmp_path / "data")]) == 2
