"""Nothing lost: a run that is killed anywhere resumes to the same bits, and damage is found."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from aihf_control import run
from aihf_control.core.config import jsonable, rebuild
from aihf_control.core.errors import BadInput
from aihf_control.core.files import remove_temporary_files, replace_nonfinite, write_bytes
from aihf_control.environments.gym import Envs, spec_of
from aihf_control.learning.replay import Buffer
from aihf_control.learning.reward_model import RewardConfig
from aihf_control.models.lanes import Dims
from aihf_control.models.saved import TrainedPolicy
from aihf_control.testing import After
from aihf_control.training.checkpoint import FORM, Checkpoints
from aihf_control.training.events import Evaluated, Finished, Notice, Paused
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes
from aihf_control.training.run_folder import lock_run
from aihf_control.training.trees import pack, unpack, write_tree
from tests.helpers import EACH_METHOD, in_this_process, small_config, words

STEPS = 24


def cell_for(method: str, steps: int = STEPS) -> RunSpec:
    return RunSpec(method, small_config(method, steps), (0, 1), 2, 20, steps, 3, 1, 2)


def outcome(events) -> tuple[list, dict, dict | None]:
    """The log's rows, and what was learned."""
    events = list(events)
    rows = [row for event in events if isinstance(event, Evaluated) for row in event.rows]
    (done,) = (event for event in events if isinstance(event, Finished))
    return replace_nonfinite(rows), done.policy, done.reward and done.reward.tensors


def same(one, other) -> None:
    assert one[0] == other[0]
    for a, b in zip(one[1:], other[1:], strict=True):
        assert (a is None) == (b is None)
        for name in a or {}:
            assert torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])), name


UNBROKEN: dict[str, tuple] = {}


def unbroken(method: str, dataset) -> tuple:
    """What a run of this method comes to that nothing breaks off: found once."""
    if method not in UNBROKEN:
        UNBROKEN[method] = outcome(train_lanes(cell_for(method), dataset))
    return UNBROKEN[method]


# -------------------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_run_that_is_left_off_again_and_again_gives_the_same_bits(method, dataset, tmp_path):
    whole, place = cell_for(method), CheckpointPlace(tmp_path)
    for after in (1, 7, 3):
        *_, last = train_lanes(whole, dataset, pause=After(after), place=place)
        assert isinstance(last, Paused)
    same(outcome(train_lanes(whole, dataset, place=place)), unbroken(method, dataset))


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_run_that_dies_between_two_states_repeats_what_it_had_not_saved(method, dataset, tmp_path):
    whole = cell_for(method)
    *_, _ = train_lanes(whole, dataset, pause=After(5), place=CheckpointPlace(tmp_path))  # a state at step 5
    dying = train_lanes(
        whole, dataset, stop=After(12), place=CheckpointPlace(tmp_path)
    )  # continues well beyond it, and is lost
    for event in dying:
        if isinstance(event, Evaluated) and event.step > 5:
            break
    dying.close()
    same(outcome(train_lanes(whole, dataset, place=CheckpointPlace(tmp_path))), unbroken(method, dataset))


def test_a_finished_process_reports_again(dataset, done):
    same(outcome(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(done))), unbroken("aihf", dataset))


def test_a_resumed_run_that_is_ended_at_once_keeps_its_policy(dataset, tmp_path):
    whole, place = cell_for("aihf"), CheckpointPlace(tmp_path)
    *_, _ = train_lanes(whole, dataset, pause=After(15), place=place)
    rows, policy, _ = outcome(train_lanes(whole, dataset, stop=After(0), place=place))
    as_far = outcome(train_lanes(cell_for("aihf"), dataset, stop=After(16)))
    assert [row["step"] for row in rows][-2:] == [16, 16] and rows[-1]["env_steps"] == as_far[0][-1]["env_steps"]
    assert torch.equal(policy["mean.weight"], as_far[1]["mean.weight"])


def test_a_process_that_ended_early_is_not_taken_for_one_that_is_done(dataset, tmp_path):
    whole, place = cell_for("aihf"), CheckpointPlace(tmp_path)
    outcome(train_lanes(whole, dataset, stop=After(5), place=place))
    assert not (tmp_path / "done.state").exists()
    rows, policy, _ = outcome(train_lanes(whole, dataset, place=place))
    assert rows[-1]["step"] == STEPS
    same((rows[-2:], policy), (lambda o: (o[0][-2:], o[1]))(unbroken("aihf", dataset)))


@pytest.mark.parametrize("gaps", [(13, 4, 6), (3, 6, 1)])
def test_a_ring_buffer_that_wrapped_between_two_checkpoints_is_restored(dataset, tmp_path, gaps):
    """With automatic entropy weight, too, so that every optimiser is in it."""
    cfg = small_config("aihf", STEPS)
    cfg = dataclasses.replace(
        cfg, replay=dataclasses.replace(cfg.replay, capacity=5), sac=dataclasses.replace(cfg.sac, alpha=())
    )
    whole = dataclasses.replace(cell_for("aihf"), cfg=cfg)
    for gap in gaps:
        *_, last = train_lanes(whole, dataset, pause=After(gap), place=CheckpointPlace(tmp_path))
        assert isinstance(last, Paused)
    same(outcome(train_lanes(whole, dataset, place=CheckpointPlace(tmp_path))), outcome(train_lanes(whole, dataset)))


def test_only_two_states_are_kept_and_rows_are_written_once(done):
    assert sorted(p.name for p in done.iterdir() if p.is_file()) == [
        "000000000022.state",
        "000000000023.state",
        "buffer.rows",
        "done.state",
    ]
    spec = spec_of("Hopper-v4")
    assert (done / "buffer.rows").stat().st_size == 23 * 2 * (2 * spec.n_obs + spec.n_act + 1) * 4


def kill_at(seconds: float, whole: RunSpec, dataset, place: CheckpointPlace) -> bool:
    """Runs `work` in a process and kills it after a while, if it is not done by then. Whether it was killed."""
    child = os.fork()
    if not child:
        try:
            for _ in train_lanes(whole, dataset, place=place):
                pass
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["aihf", "rlhf", "dpo"])
def test_killed_at_random_and_resumed_it_gives_the_same_bits(method, dataset, tmp_path):
    """At least seven kills for each of three methods, at any moment: in an update, in a write, between two files."""
    steps = {"aihf": 400, "rlhf": 400, "dpo": 150}[method]
    whole, rng = cell_for(method, steps), random.Random(method)
    unbroken = outcome(train_lanes(whole, dataset))
    kills = 0
    for folder in (tmp_path / str(i) for i in itertools.count()):
        patience = 0.8  # grows, so that on a slow machine too a process comes to its first state
        while not (folder / "done.state").exists():
            kills += kill_at(rng.uniform(0.1, patience), whole, dataset, CheckpointPlace(folder, 0.0005))
            patience *= 1.1
        same(outcome(train_lanes(whole, dataset, place=CheckpointPlace(folder))), unbroken)
        if kills >= 7:
            break


# ------------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def two_states(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two_states")
    *_, _ = train_lanes(cell_for("aihf"), dataset, pause=After(8), place=CheckpointPlace(folder, 0.0))
    assert len(list(folder.glob("*.state"))) == 2
    return folder


@pytest.fixture
def kept(two_states, tmp_path) -> Path:
    """The folder of a process that left off with two states."""
    return shutil.copytree(two_states, tmp_path / "kept")


@pytest.fixture(scope="module")
def ended(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    same(outcome(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(folder, 0.0))), unbroken("aihf", dataset))
    return folder


@pytest.fixture
def done(ended, tmp_path) -> Path:
    """The folder of a process that ended, with its last two states."""
    return shutil.copytree(ended, tmp_path / "done")


def damage(path: Path, rng: random.Random, flip: bool) -> None:
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if flip:
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data if flip else data[:at])


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_state_is_found_and_the_one_before_taken(kept, seed, flip):
    old, new = sorted(kept.glob("*.state"))
    damage(new, random.Random(seed), flip)
    reported: list[str] = []
    saved = Checkpoints(kept).last(reported.append)
    assert saved and saved.step == int(old.stem) and len(reported) == 1 and str(new) in reported[0]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_damaged_rows_are_found(kept, seed, flip):
    path = kept / "buffer.rows"
    damage(path, random.Random(seed), flip)
    reported: list[str] = []
    saved = Checkpoints(kept).last(reported.append)
    assert reported and str(path) in reported[0]
    assert saved is None or saved.step < 8  # what lies before the damage is whole


def forge(path: Path, about: str, tensors: dict | None = None) -> None:
    """Write a state with a digest that is right, as someone who forges it would."""
    data = safetensors.torch.save(tensors or {"x": torch.zeros(2)}, {"about": about})
    path.write_bytes(hashlib.sha256(data).digest() + data)


def forged(**changes) -> str:
    """A state of nothing, with some of its fields changed."""
    tree = {"form": FORM, "step": 9, "rows": [], "chunks": {}, "task": {"step": 9}} | changes
    return json.dumps(pack(tree, {}))


FORGED = ["1", "[]", "[" * 100_000, '{"dict": 3}', '{"tensor": "y"}', '{"tensor": []}', '{"array": "x", "b": 1}']
FORGED += [forged(step=step) for step in (None, "9", -1, 1.5, [])]
ROW = {"seed": 0, "step": 1, "return": 1.5}
FORGED += [forged(rows=rows) for rows in (3, [3], [{}], [ROW | {"return": "x"}], [ROW | {"seed": []}])]
FORGED += [forged(chunks=chunks) for chunks in (3, {"buffer": 3}, {"buffer": [{}]}, {"../x": []})]
FORGED += [
    forged(chunks={"buffer": [{"until": 1, "bytes": n, "shape": shape, "sha256": ""}]})
    for n, shape in ((10**15, [1]), (-1, [1]), ("4", [1]), (4, [-5]), (4, [10**12]))
]


@pytest.mark.parametrize("about", FORGED)
def test_a_forged_state_is_refused_and_the_one_before_taken(kept, about):
    old, new = sorted(kept.glob("*.state"))
    forge(new, about)
    reported: list[str] = []
    saved = Checkpoints(kept).last(reported.append)
    assert saved and saved.step == int(old.stem) and len(reported) == 1 and "\n" not in reported[0]


@pytest.mark.parametrize(
    "change", [{"parts": {}}, {"parts": 3}, {"streams": {}}, {"n_steps": "x"}, {"labels": [1]}, {"step": None}]
)
def test_a_state_of_other_settings_is_refused_in_one_line(kept, dataset, change):
    path = max(kept.glob("*.state"))
    store = Checkpoints(kept)
    saved = store.last()
    tree = {"form": FORM, "step": saved.step, "rows": saved.rows, "chunks": store.chunks}
    write_tree(path, {**tree, "task": saved.state["task"] | change})
    with pytest.raises(BadInput, match=r"^the checkpoint does not fit the settings of this run; [^\n]*$"):
        list(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(kept)))


def test_a_pipe_in_place_of_a_state_or_of_rows_is_not_waited_for(kept):
    for path in (max(kept.glob("*.state")), kept / "buffer.rows"):
        path.unlink()
        os.mkfifo(path)
    reported: list[str] = []
    assert Checkpoints(kept).last(reported.append) is None and all("not a regular file" in line for line in reported)


@pytest.mark.parametrize("learned", [3, {"reward": None}, {"policy": 3, "reward": None}, {"policy": {}, "reward": 3}])
def test_a_forged_end_is_told_and_gone_back_from(dataset, done, learned):
    write_tree(done / "done.state", {"step": STEPS, "rows": [], "learned": learned})
    events = list(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(done, 0.0)))
    assert isinstance(events[0], Notice) and "done.state was not written by aihf_control" in events[0].message
    same(outcome(events), unbroken("aihf", dataset))


def test_a_state_of_another_version_is_refused_and_kept(kept, monkeypatch):
    before = {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()}
    monkeypatch.setattr("aihf_control.training.checkpoint.FORM", FORM + 1)
    with pytest.raises(BadInput, match=r"another version.*; resume with that version, or remove"):
        Checkpoints(kept).last()
    assert {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()} == before


def test_with_all_checkpoints_damaged_it_starts_again_and_reports_it(kept, dataset):
    for path in kept.glob("*.state"):
        path.write_bytes(b"")
    events = list(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(kept)))
    assert [type(e) for e in events[:2]] == [Notice, Notice]
    same(outcome(events), unbroken("aihf", dataset))


def test_after_beginning_again_new_states_are_kept(kept, dataset):
    for path in kept.glob("*.state"):
        path.write_bytes(b"")
    *_, _ = train_lanes(cell_for("aihf"), dataset, pause=After(3), place=CheckpointPlace(kept, 0.0))
    assert sorted(p.stem for p in kept.glob("*.state")) == ["000000000002", "000000000003"]


def test_a_damaged_checkpoint_is_reported_and_an_earlier_one_used(dataset, done):
    damage(done / "done.state", random.Random(0), flip=True)
    events = list(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(done, 0.0)))
    assert isinstance(events[0], Notice) and "done.state" in events[0].message
    same(outcome(events), unbroken("aihf", dataset))


def test_a_full_disk_is_one_line_and_leaves_the_last_state(kept, dataset, monkeypatch):
    before = {p.name: p.read_bytes() for p in kept.glob("*.state")}

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"No space left on device; free some space"):
        outcome(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(kept, 0.0)))
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in kept.glob("*.state")} == before
    same(outcome(train_lanes(cell_for("aihf"), dataset, place=CheckpointPlace(kept))), unbroken("aihf", dataset))


def test_temporaries_of_killed_writers_are_swept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".x.state.abc123.tmp").write_bytes(b"half")
    write_bytes(tmp_path / "a" / "whole.json", b"{}")
    remove_temporary_files(tmp_path)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["whole.json"]


# --------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    "env_id", ["Hopper-v4", "Walker2d-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4", "Pendulum-v1"]
)
def test_environments_resume_exactly(env_id):
    spec = spec_of(env_id)
    rng = np.random.default_rng(0)
    acts = rng.uniform(-1, 1, (60, 2, spec.n_act)).astype(np.float32)

    def play(envs: Envs, some) -> list:
        reported = []
        for act in some:
            obs, reward, terminated, truncated = envs.step(act)
            reported.append((obs.tobytes(), reward.tobytes()))
            for i in np.flatnonzero(terminated | truncated):
                reported.append(envs.reset(int(i)).tobytes())
        return reported

    one = Envs(spec, 2)
    for i in range(2):
        one.reset(i, seed=i)
    play(one, acts[:35])
    other = Envs(spec, 2)
    for i in range(2):
        other.reset(i, seed=9)
    other.load_state_dict(one.state_dict())
    assert play(one, acts[35:]) == play(other, acts[35:])


def test_an_environment_that_does_not_play_alike_is_refused():
    envs = Envs(spec_of("Hopper-v4"), 1)
    envs.reset(0, seed=0)
    envs.step(np.zeros((1, 3), np.float32))
    state = envs.state_dict()
    state["last"] = state["last"] + 1
    with pytest.raises(BadInput, match="is not deterministic"):
        envs.load_state_dict(state)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_a_ring_is_put_back_from_the_rows_ever_written(n):
    dims = Dims((0, 1), 2, 1)
    one, other = Buffer(dims, 5), Buffer(dims, 5)
    parts = []
    for k in range(n):
        row = torch.full((2, 2), float(k)) + torch.tensor([[0.0], [100.0]])
        one.add(row, row[:, :1], row, torch.zeros(2))
        parts.append(one.since(k))
    other.load_state_dict(one.state_dict())
    other.restore_rows(torch.cat(parts))
    assert torch.equal(one.data, other.data) and torch.equal(one.count, other.count)


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda x: (
        st.lists(x, max_size=3)
        | st.lists(x, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), x, max_size=3)
    ),
    max_leaves=12,
)


@given(TREES)
def test_a_tree_survives_being_packed(tree):
    assert unpack(json.loads(json.dumps(pack(tree, {}))), {}) == tree


def test_tensors_and_arrays_survive_being_packed():
    tensors: dict = {}
    packed = json.loads(json.dumps(pack({"a": [torch.arange(3)], 1: np.ones(2)}, tensors)))
    tree = unpack(packed, tensors)
    assert torch.equal(tree["a"][0], torch.arange(3)) and np.array_equal(tree[1], np.ones(2))


def test_what_cannot_be_packed_is_named():
    with pytest.raises(TypeError, match="/a: a checkpoint cannot contain a set"):
        pack({"a": set()}, {})


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def stopped(dataset_folder, tmp_path_factory) -> Path:
    """What SIGTERM left of a run at its seventh step."""

    def interrupted(whole, dataset, workers, stop, pause, place, step_timeout, annotator):
        for event in train_lanes(whole, dataset, stop, After(7), place):
            yield event
            if isinstance(event, Evaluated) and event.step == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aihf_control.training.result.run_workers", interrupted)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert run.main(words("aihf", dataset_folder, out)) == 143
    (folder,) = (out / "Hopper-v4" / "aihf").iterdir()
    assert f"--resume {folder}" in printed.getvalue()
    return out


@pytest.fixture
def left_off(stopped, dataset_folder, tmp_path, monkeypatch) -> tuple[Path, list[str]]:
    """A copy of the stopped run, and the words that began it."""
    (folder,) = (shutil.copytree(stopped, tmp_path / "runs") / "Hopper-v4" / "aihf").iterdir()
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    return folder, words("aihf", dataset_folder, stopped)


def test_sigterm_leaves_off_and_resume_gives_the_same_files(left_off, tmp_path):
    folder, args = left_off
    assert not (folder / "summary.json").exists()
    assert run.main(["--resume", str(folder)]) == 0
    assert run.main([*args, "--out", str(tmp_path / "unbroken")]) == 0
    (unbroken,) = (tmp_path / "unbroken" / "Hopper-v4" / "aihf").iterdir()
    for name in ("log.jsonl", "policy.safetensors", "reward.safetensors", "summary.json"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert not (folder / "checkpoint").exists()


def test_a_dry_run_of_resuming_changes_no_file(left_off, capsys):
    folder, _ = left_off
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run.main(["--resume", str(folder), "--dry-run"]) == 0
    assert f"writes to    {folder}\n" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_another_matmul_kernel_is_reported_on_resume(left_off, monkeypatch, capsys):
    folder, _ = left_off
    monkeypatch.setattr("aihf_control.models.kernel_library.state", lambda products: "torch: for a test")
    assert run.main(["--resume", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "so the bits will too: products" in out and "-> torch: for a test" in out


def test_other_settings_are_refused_with_the_difference(left_off, capsys):
    folder, _ = left_off
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run.main(["--resume", str(folder), "--steps", "99", "--sac.gamma", "0.5"]) == 2
    err = capsys.readouterr().err
    assert "--steps is 20 there and 99 here" in err and "--sac.gamma is 0.99 there and 0.5 here" in err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_running_run_is_not_resumed(left_off, capsys):
    folder, _ = left_off
    for more in ([], ["--dry-run"]):
        with lock_run(folder):
            assert run.main(["--resume", str(folder), *more]) == 2
        assert "is in use by a running process" in capsys.readouterr().err
    assert run.main(["--resume", str(folder)]) == 0


def test_a_run_whose_saving_failed_is_not_taken_for_finished(left_off, monkeypatch, tmp_path):
    folder, _ = left_off

    def full(self, path, lane=0):
        raise BadInput(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(TrainedPolicy, "export", full)
    assert run.main(["--resume", str(folder)]) == 2
    monkeypatch.undo()
    monkeypatch.setattr("aihf_control.training.result.run_workers", in_this_process)
    assert run.main(["--resume", str(folder)]) == 0
    assert (folder / "policy_seed0.zip").exists() and (folder / "summary.json").exists()


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1.5, 2])
def test_settings_survive_json(value, tmp_path):
    cfg = RewardConfig(decay=abs(value), alive_bound=math.inf)
    tree = json.loads(json.dumps(replace_nonfinite(jsonable(dataclasses.asdict(cfg)))))
    assert rebuild(RewardConfig, tree, tmp_path) == cfg


def test_the_same_settings_may_be_repeated(left_off):
    folder, args = left_off
    assert run.main([*args, "--resume", str(folder)]) == 0


def test_a_finished_run_says_so(left_off, capsys):
    folder, _ = left_off
    assert run.main(["--resume", str(folder)]) == 0
    before = (folder / "log.jsonl").read_bytes()
    assert run.main(["--resume", str(folder)]) == 0
    assert "is finished" in capsys.readouterr().out and (folder / "log.jsonl").read_bytes() == before


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert run.main(["--resume", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no run to resume" in said and "start the run again" in said


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("workers"),
        lambda c: c.update(workers=0),
        lambda c: c.update(options=[]),
        lambda c: c["options"].pop("env"),
        lambda c: c["options"].update(seeds="five"),
        lambda c: c["options"].update(env=None),
        lambda c: c["options"].update(precision="float8"),
        lambda c: c["options"].update(method="../../evil"),
        lambda c: c["options"].update(surplus=1),
        lambda c: c["cell"]["cfg"]["sac"].update(hidden=128),
        lambda c: c["cell"]["cfg"]["sac"].update(gamma="high"),
        lambda c: c["cell"].pop("cfg"),
        lambda c: c["cell"].update(products="__import__"),
        lambda c: c["cell"].update(device=1),
        lambda c: c["dataset"].update(digest="0" * 12),
        lambda c: c.pop("versions"),
    ],
)
def test_a_config_that_is_not_a_runs_is_refused(left_off, change, capsys):
    folder, _ = left_off
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    assert run.main(["--resume", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "Traceback" not in err


@pytest.mark.slow
def test_a_command_killed_at_random_resumes_to_the_same_files(dataset_folder, tmp_path):
    """Parent and children, two processes, by SIGKILL to the group; the log has no doubled and no lost line."""

    def command(*more: str) -> list[str]:
        return [sys.executable, "-m", "aihf_control.run", *more]

    def args(out: str) -> list[str]:
        given = words("aihf", dataset_folder, tmp_path / out, "--checkpoint", "0.002", steps=600)
        given[given.index("--workers") + 1] = "2"
        return given

    subprocess.run(command(*args("unbroken")), check=True, capture_output=True)
    process = subprocess.Popen(command(*args("killed")), start_new_session=True, stdout=subprocess.DEVNULL)
    rng, kills, patience = random.Random(0), 0, 0.5  # short at first, or a quick machine is done before any kill
    while True:
        place = tmp_path / "killed" / "Hopper-v4" / "aihf"
        while process.poll() is None and len(list(place.glob("*/checkpoint/*/*.state"))) < 2:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, patience))
        patience *= 1.6
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        (folder,) = place.iterdir()
        process = subprocess.Popen(command("--resume", str(folder)), start_new_session=True, stdout=subprocess.DEVNULL)
    (killed,), (unbroken,) = (list((tmp_path / out / "Hopper-v4" / "aihf").iterdir()) for out in ("killed", "unbroken"))
    assert kills >= 1 and process.returncode == 0
    for name in ("policy.safetensors", "reward.safetensors"):
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes(), name
    lines = [sorted((folder / "log.jsonl").read_text().splitlines()) for folder in (killed, unbroken)]
    assert lines[0] == lines[1]
