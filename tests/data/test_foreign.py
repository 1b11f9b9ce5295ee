"""Foreign files and environments: read in full and converted, or refused in one line; nothing is silently less."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data import arrays
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.comparison_csv import read_comparisons
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, default_folder, make_dataset
from aihf_control.data.importing import ImportConfig, find_replay_difference, import_dataset
from aihf_control.data.pool import check_expert
from aihf_control.data.sources import read_episodes
from aihf_control.data.transitions import read_transitions
from aihf_control.environments.gym import spec_of
from aihf_control.environments.rollout import rollout
from tests.helpers import random_policies

PENDULUM = "Pendulum-v1"
HEADER = "win_episode,win_start,lose_episode,lose_start,length"


@pytest.fixture(scope="module")
def spec():
    return spec_of(PENDULUM)


@pytest.fixture(scope="module")
def episodes(spec) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return rollout(spec, lambda obs: rng.uniform(-1, 1, (len(obs), 1)).astype(np.float32), [3, 4, 5])


def transitions(episodes: list[Trajectory]) -> dict[str, np.ndarray]:
    steps = [t.steps() for t in episodes]
    return {
        "observations": np.concatenate([s.obs for s in steps]),
        "actions": 2 * np.concatenate([s.act for s in steps]),
        "next_observations": np.concatenate([s.next_obs for s in steps]),
        "rewards": np.concatenate([t.reward for t in episodes]),
        "terminals": np.zeros(sum(map(len, episodes)), bool),
        "timeouts": np.concatenate([np.arange(len(t)) == len(t) - 1 for t in episodes]),
    }


def renamed(columns: dict[str, np.ndarray], **names: str | None) -> dict[str, np.ndarray]:
    """The columns under other names; None drops one."""
    return {names.get(k, k): v for k, v in columns.items() if names.get(k, k) is not None}


def saved(folder: Path, **columns: np.ndarray) -> Path:
    np.savez(folder / "mine.npz", **columns)
    return folder / "mine.npz"


def same(found: list[Trajectory], episodes: list[Trajectory], dropped: int = 0) -> None:
    for a, b in zip(found, episodes, strict=True):
        n = len(b) - dropped
        assert len(a) == n and np.array_equal(a.obs, b.obs[: n + 1]) and np.array_equal(a.reward, b.reward[:n])
        np.testing.assert_allclose(a.act, b.act[:n], atol=1e-6)
        assert not a.terminated


def refused(text: str, call, *args) -> None:
    with pytest.raises(BadInput) as refusal:
        call(*args)
    message = "\n".join(refusal.value.faults) if isinstance(refusal.value, BadLines) else str(refusal.value)
    assert text in message, message
    assert "\n" not in str(refusal.value)


# ----------------------------------------------------------------------------------------------------- column names


def test_next_observations_are_derived_inside_an_episode(episodes, spec, tmp_path):
    notes: list[str] = []
    path = saved(tmp_path, **renamed(transitions(episodes), next_observations=None))
    same(read_transitions(path, spec, notes), episodes, dropped=1)
    assert "the last step of 3 of 3 episodes" in notes[0]


def test_a_termination_without_next_observation_is_kept(episodes, spec, tmp_path):
    columns = renamed(transitions(episodes), next_observations=None)
    columns["terminals"][49] = True
    found = read_transitions(saved(tmp_path, **columns), spec)
    assert [(len(t), t.terminated) for t in found] == [(50, True), (149, False), (199, False), (199, False)]


def test_timeouts_are_derived_from_stated_lengths(episodes, spec, tmp_path):
    columns = renamed(transitions(episodes), timeouts=None)
    same(read_transitions(saved(tmp_path, **columns, lengths=np.array([200, 200, 200])), spec), episodes)
    for lengths in ([200, 200], [200, 200, 201], [0, 300, 300], [200.5, 199.5, 200]):
        path = saved(tmp_path, **columns, lengths=np.array(lengths))
        refused("whole numbers from 1 up that sum to 600", read_transitions, path, spec)


def test_d4rls_qlearning_form_without_timeouts_ends_where_rows_do_not_continue(episodes, spec, tmp_path):
    notes: list[str] = []
    columns = renamed(transitions(episodes), timeouts=None)
    columns = {name: np.delete(column, [199, 399], 0) for name, column in columns.items()}  # as D4RL drops them
    found = read_transitions(saved(tmp_path, **columns), spec, notes)
    assert [len(t) for t in found] == [199, 199, 200] and "no timeouts" in notes[0]


def test_imitations_transitions_are_read(episodes, spec, tmp_path):
    notes: list[str] = []
    columns = renamed(
        transitions(episodes),
        observations="obs",
        actions="acts",
        rewards="rews",
        next_observations="next_obs",
        timeouts="dones",
        terminals=None,
    )
    path = saved(tmp_path, **columns, infos=np.array([{}] * 600, dtype=object))
    same(read_transitions(path, spec, notes), episodes)
    assert "dones are taken as terminations (0), and as time limits after 200 steps (3)" in notes[-1]


def test_imitations_trajectories_are_read(episodes, spec, tmp_path):
    columns = {
        "obs": np.concatenate([t.obs for t in episodes]),
        "acts": 2 * np.concatenate([t.act for t in episodes]),
        "rews": np.concatenate([t.reward for t in episodes]),
        "indices": np.array([200, 400]),
        "terminal": np.array([False, False, True]),
    }
    found = read_transitions(saved(tmp_path, **columns), spec)
    assert [t.terminated for t in found] == [False, False, True]
    same([dataclasses.replace(t, terminated=False) for t in found], episodes)


def test_a_termination_inside_a_stated_length_is_cut_with_a_note(episodes, spec, tmp_path):
    columns, notes = renamed(transitions(episodes), timeouts=None), []
    columns["terminals"][49] = True
    found = read_transitions(saved(tmp_path, **columns, lengths=np.full(3, 200)), spec, notes)
    assert [(len(t), t.terminated) for t in found] == [(50, True), (200, False), (200, False)]
    assert "1 episodes terminate before their stated end and are cut there" in notes[0]


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (["rewards"], "zeros suffice"),
        (["actions"], "actions (N, A) in the environment's units"),
        (["timeouts", "next_observations"], "give lengths (steps per episode) or next_observations"),
        (["terminals"], "lacks terminated or terminations or terminals (or dones)"),
    ],
)
def test_what_lacks_is_named_with_its_remedy(episodes, spec, tmp_path, drop, message):
    path = saved(tmp_path, **renamed(transitions(episodes), **dict.fromkeys(drop)))
    refused(message, read_transitions, path, spec)


def test_d4rls_hdf5_is_read(episodes, spec, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as f:
        for name, column in renamed(transitions(episodes), next_observations=None).items():
            f[name] = column
        f["infos/qpos"] = np.zeros((600, 1))
    same(read_episodes(str(tmp_path / "d4rl.hdf5"), spec), episodes, dropped=1)


@pytest.mark.parametrize("kind", ["link", "outside", "huge", "objects", "torn"])
def test_hdf5_that_is_no_plain_table_is_refused(episodes, spec, tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "bad.hdf5"
    with h5py.File(path, "w") as f:
        for name, column in renamed(transitions(episodes), rewards=None).items():
            f[name] = column
        if kind == "link":
            f["rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/x")
        elif kind == "outside":
            f.create_dataset("rewards", (4,), "f8", external=[("/etc/hostname", 0, 32)])
        elif kind == "objects":
            f["rewards"] = ["text"] * 600
        else:
            f.create_dataset("rewards", (10**12,), "f8", chunks=(1000,))
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:3000])
    text = {"link": "only plain", "outside": "only plain", "huge": "at most", "objects": "objects"}.get(kind, "as hdf5")
    refused(text, read_transitions, path, spec)


# ------------------------------------------------------------------------------------------------------ hostile files


def npy(shape: str, descr: str = "<f4", data: bytes = b"\0" * 16) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(1000000000000,)"), "states (1000000000000,)"),
        (npy("(4, 0)", data=b""), "rows without columns"),
        (npy("(1000000000000, 0)", data=b""), "rows without columns"),
        (npy("(-4,)"), "bad.npz"),
        (npy("(2,)", "|O"), "Python objects"),
        (npy("(2,)", "<M8[s]"), "dtype datetime64"),
        (npy("(3,)"), "states (3,)"),
        (npy("(" * 5000), "bad.npz"),
        (b"\x93NUMPY\x03\x00" + b"\0" * 40, "npy version"),
        (b"no array", "as an npz"),
    ],
)
def test_an_npz_member_is_judged_by_its_header(spec, tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as z:
        z.writestr("obs.npy", content)
    refused(message, read_transitions, tmp_path / "bad.npz", spec)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_named(spec, tmp_path, method):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", method) as z:
        z.writestr("obs.npy", npy("(4,)"))
    refused("savez_compressed", read_transitions, tmp_path / "bad.npz", spec)


def test_encrypted_members_are_named(spec, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as z:
        z.writestr("obs.npy", npy("(4,)"))
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    (tmp_path / "bad.npz").write_bytes(data)
    refused("is encrypted", read_transitions, tmp_path / "bad.npz", spec)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_read_member", lambda *_: pytest.fail("it was unpacked"))
    n = 20_000_000
    np.savez_compressed(tmp_path / "bomb.npz", obs=np.zeros((n, 1), np.float32))
    refused("more than 100 times", read_transitions, tmp_path / "bomb.npz", spec)
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    monkeypatch.setattr(arrays, "check_regular", lambda *_: None)
    refused("at most 1,000 are read", read_transitions, tmp_path / "bomb.npz", spec)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_pipe_or_device_is_refused_and_not_waited_for(spec, tmp_path, kind, episodes):
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    refused("give a regular file", read_transitions, path, spec)
    refused("not a regular file", read_comparisons, path, episodes)


def folder_with(dataset_folder: Path, tmp_path: Path, meta: str) -> Path:
    for name in ("pool.npz", "preferences.csv"):
        (tmp_path / name).write_bytes((dataset_folder / name).read_bytes())
    (tmp_path / "meta.json").write_text(meta)
    return tmp_path


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"schema": ' + "9" * 5000 + "}"])
def test_nested_and_huge_json_is_refused(dataset_folder, tmp_path, text):
    refused("meta.json", Dataset.load, folder_with(dataset_folder, tmp_path, text))


WRONG = [None, True, -1, 1.5, "x", [], ["x"], [None], {}, {"a": None}, {"a": []}, 1e999]
FIELDS = {
    "env": "x",
    "options": {},
    "horizon": 1000,
    "demonstrations": [],
    "held_out": [],
    "sha256": {},
    "expert_returns": [1.0],
    "random_returns": [1.0],
    "config": {},
    "annotator": {},
    "versions": {},
    "notes": [],
    "schema": 1,
}


@pytest.mark.parametrize("field", FIELDS)
def test_wrong_types_in_meta_are_refused_or_harmless(dataset_folder, tmp_path, field, capsys):
    """Whatever its type, a field is refused in a line or the summary and the figure work."""
    good, refusals = json.loads((dataset_folder / "meta.json").read_text()), 0
    for value in WRONG:
        folder = folder_with(dataset_folder, tmp_path, json.dumps(good | {field: value}))
        code = data_main(["show", str(folder), "--figure", str(tmp_path / "d.png")])
        assert code in (0, 2)
        if type(value) is not type(FIELDS[field]):
            assert code == 2, value
        refusals += code == 2
    err = capsys.readouterr().err
    assert refusals >= 7 and "Traceback" not in err and err.count("error: ") == refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": np.array([2**62, 2**62], np.int64)}, "length"),
        ({"level": np.zeros(16)}, "level is of float64, it needs text"),
        ({"seed": np.full(16, np.nan)}, "seed is of float64"),
        ({"terminated": np.full(16, "x")}, "it needs booleans"),
    ],
)
def test_a_pool_of_wrong_types_is_refused(dataset_folder, tmp_path, change, message):
    from aihf_control.core.files import sha256

    folder = folder_with(dataset_folder, tmp_path, "")
    with np.load(folder / "pool.npz") as f:
        np.savez(folder / "pool.npz", **{**f, **change})
    meta = json.loads((dataset_folder / "meta.json").read_text())
    meta["sha256"]["pool.npz"] = sha256((folder / "pool.npz").read_bytes())
    (folder / "meta.json").write_text(json.dumps(meta))
    refused(message, Dataset.load, folder)


# ---------------------------------------------------------------------------------------------------------------- csv


def csv_of(folder: Path, *lines: str, header: str = HEADER) -> Path:
    (folder / "pairs.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "pairs.csv"


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_named(episodes, tmp_path, mark, word):
    path = csv_of(tmp_path, "0;0;1;0;50".replace(";", mark), header=HEADER.replace(",", mark))
    refused(f"separated by {word}, write commas", read_comparisons, path, episodes)


def test_spaces_and_decimal_whole_numbers_are_accepted(episodes, tmp_path):
    path = csv_of(tmp_path, "0.0, 5 ,1.0,0, 50.0", "0,7,1,0,50.", header=HEADER.replace(",", ", "))
    pairs = read_comparisons(path, episodes)
    assert pairs[["win_episode", "win_start", "length"]].to_numpy().tolist() == [[0, 5, 50], [0, 7, 50]]
    refused("win_start is '5.5'", read_comparisons, csv_of(tmp_path, "0,5.5,1,0,50"), episodes)


def test_a_tie_column_makes_ties_and_a_lone_half_is_explained(episodes, tmp_path):
    notes: list[str] = []
    path = csv_of(tmp_path, "0,5,1,0,50,,1", "2,0,1,60,50,0.5,0", header=HEADER + ",weight,tie")
    pairs = read_comparisons(path, episodes, 200, notes)
    assert pairs["weight"].tolist() == [0.5, 0.5, 0.5]
    assert pairs[["win_episode", "lose_episode"]].to_numpy().tolist() == [[0, 1], [1, 0], [2, 1]]
    assert len(notes) == 1 and "1 lines of weight 0.5" in notes[0] and "not a tie" in notes[0]
    refused("tie is 'yes'", read_comparisons, csv_of(tmp_path, "0,5,1,0,50,yes", header=HEADER + ",tie"), episodes)


def test_a_test_line_that_overlaps_training_is_refused_with_its_line(episodes, tmp_path):
    lines = ["0,0,1,0,50,train", "0,50,1,50,50,test", "2,0,1,49,50,test", "0,49,2,0,50,test"]
    path = csv_of(tmp_path, *lines, header=HEADER + ",split")
    with pytest.raises(BadLines) as refusal:
        read_comparisons(path, episodes)
    assert [f.split(": ")[0].rpartition(" ")[2] for f in refusal.value.faults] == ["4", "5"]
    assert "training segment of line 2" in refusal.value.faults[0]


def test_a_segment_beyond_the_horizon_is_refused_before_it_is_allocated(episodes, tmp_path):
    fallen = [dataclasses.replace(t, terminated=True) for t in episodes]
    path = csv_of(tmp_path, "0,0,1,0,999999999999")
    refused("an episode has at most 200 steps", read_comparisons, path, fallen, 200)


# ------------------------------------------------------------------------------------------------------ make and import


class Faulty(gym.Env):
    """Pays NaN at its fifth step."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), float("nan") if self.t == 5 else 1.0, False, False, {}


def test_an_environment_that_pays_nan_is_refused_and_nothing_is_written(tmp_path, capsys):
    gym.register("Faulty-v0", Faulty, max_episode_steps=20)
    try:
        zips = random_policies("Faulty-v0", tmp_path / "zips")
        line = ["make", "--env", "Faulty-v0", "--out", str(tmp_path / "made"), "--force"]
        assert data_main([*line, "--policy", *(f"{k}={v}" for k, v in zips.items()), "--clip", "5"]) == 2
    finally:
        gym.registry.pop("Faulty-v0")
    err = capsys.readouterr().err
    assert "Faulty-v0: the reward in step 5 of an episode is nan" in err and err.count("\n") == 1
    assert not (tmp_path / "made").exists()


SMALL = "--demos 1 --episodes 4 --noise 0 --pairs 4 --test-pairs 2 --clip 9"


def make(env: str, folder: Path, *more: str, levels=("expert", "medium", "weak")) -> int:
    zips = random_policies(env, folder / "zips") if not (folder / "zips").exists() else {}
    zips = zips or {level: folder / "zips" / f"{level}.zip" for level in levels}
    line = ["make", "--env", env, "--out", str(folder / "made"), "--policy", *(f"{k}={zips[k]}" for k in levels)]
    return data_main([*line, *SMALL.split(), *more])


def test_an_expert_no_better_than_random_needs_force_and_a_dataset_needs_overwrite(tmp_path, capsys):
    assert make(PENDULUM, tmp_path) == 2 and not (tmp_path / "made").exists()
    assert "no better than random" in capsys.readouterr().err
    assert make(PENDULUM, tmp_path, "--force") == 0
    before = (tmp_path / "made" / "meta.json").read_bytes()
    assert make(PENDULUM, tmp_path, "--force", "--seed", "1") == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "made" / "meta.json").read_bytes() == before
    assert make(PENDULUM, tmp_path, "--force", "--seed", "1", "--overwrite") == 0
    assert (tmp_path / "made" / "meta.json").read_bytes() != before


def test_an_expert_is_better_by_more_than_chance():
    check_expert([10.0, 11.0], [0.0, 1.0])
    check_expert([10.0], [0.0, 1.0])
    for expert in ([0.5, 0.6], [0.0, 100.0], [-5.0], [float("nan")]):
        with pytest.raises(BadInput, match="no better than random"):
            check_expert(expert, [0.0, 1.0])


def test_policies_of_ones_own_need_not_have_every_level(tmp_path):
    assert make(PENDULUM, tmp_path, "--force", levels=("weak", "expert")) == 0
    made = Dataset.load(tmp_path / "made")
    assert made.meta["config"]["levels"] == ["weak", "expert"] and {t.level for t in made.pool} == {"weak", "expert"}


@pytest.mark.slow
def test_environment_options_reach_the_environment_and_the_metadata(tmp_path, capsys):
    given = ["--env-option", "include_cfrc_ext_in_observation=false", "healthy_reward=2.5"]
    plain = {"include_cfrc_ext_in_observation": False, "healthy_reward": 2.5}
    zips = tmp_path / "zips"
    from aihf_control.models.expert import expert_of
    from aihf_control.models.lanes import Dims
    from aihf_control.models.networks import Policy
    from aihf_control.models.sb3_writer import write_zip

    spec = spec_of("Ant-v5", **plain)
    write_zip(zips / "expert.zip", expert_of(Policy(Dims((0,), spec.n_obs, spec.n_act), (8, 8)), 0), spec)
    line = ["make", "--env", "Ant-v5", "--out", str(tmp_path / "made"), "--policy", f"expert={zips / 'expert.zip'}"]
    assert data_main([*line, *SMALL.split(), "--force", *given]) == 0
    made = Dataset.load(tmp_path / "made")
    assert made.meta["options"] == plain and made.pool[0].obs.shape[1] == spec.n_obs == 27
    assert spec_of(made.meta["env"], **made.meta["options"]).options == plain
    capsys.readouterr()
    for word in ("healthy_reward", "a b=1"):
        assert data_main([*line, "--overwrite", "--env-option", word]) == 2
        assert "write it as KEY=VALUE" in capsys.readouterr().err


def test_the_default_folder_of_a_modules_environment_has_no_colon():
    assert default_folder("package:Ring-v0", DataConfig(), Path("x")).parts[1] == "package__Ring-v0"


def test_a_clip_longer_than_an_episode_is_refused(policy_zips, tmp_path):
    with pytest.raises(BadInput, match="--clip must be at most 1000"):
        make_dataset("Hopper-v4", DataConfig(clip=1001), policy_zips, tmp_path)


# -------------------------------------------------------------------------------------------------------------- Minari


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A function that records two seeded random episodes of an environment with Minari's own collector."""
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def collect(env: gym.Env, name: str = "theirs-v0") -> str:
        buffers = []
        for i, seed in enumerate((11, 12)):
            obs, act, rewards, over = [env.reset(seed=seed)[0]], [], [], False
            env.action_space.seed(seed)
            while not over:
                act.append(np.clip(env.action_space.sample(), -1.5, 1.5).astype(np.float32))
                o, r, terminated, truncated, _ = env.step(act[-1])
                obs.append(o)
                rewards.append(float(r))
                over = terminated or truncated
            n = len(act)
            flags = [False] * n, [False] * (n - 1) + [True]
            columns = np.array(obs), np.array(act), rewards, *flags
            buffers.append(minari.data_collector.EpisodeBuffer(i, seed, None, *columns, None))
        minari.create_dataset_from_buffers(name, buffers, env=env, data_format="hdf5")
        return f"minari:{name}"

    return collect


def imported(source: str, *more: str, folder: Path) -> int:
    return data_main(["import", "--env", PENDULUM, "--out", str(folder / "made"), "--pool", source, *more])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_actions_recorded_through_a_rescaled_box_are_converted(record, tmp_path, spec):
    source = record(gym.wrappers.RescaleAction(gym.make(PENDULUM), -1.0, 1.0))
    notes: list[str] = []
    found = read_episodes(source, spec, notes)
    assert np.abs(found[0].act).max() > 0.9 and "are converted to Pendulum-v1's" in notes[0]
    assert find_replay_difference(found, spec) is None
    halved = [dataclasses.replace(t, act=t.act / 2) for t in found]
    assert "differs in obs" in str(find_replay_difference(halved, spec))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_actions_recorded_through_clipping_are_those_that_were_played(record, spec):
    found = read_episodes(record(gym.wrappers.ClipAction(gym.make(PENDULUM))), spec)
    assert find_replay_difference(found, spec) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_recorded_options_and_limits_become_the_datasets(record, tmp_path, capsys):
    source = record(gym.make(PENDULUM, g=2.0, max_episode_steps=50))
    made = import_dataset(PENDULUM, ImportConfig(pool=(source,)), tmp_path / "taken", force=True)
    assert made.meta["options"] == {"g": 2.0, "max_episode_steps": 50} and made.meta["horizon"] == 50
    assert "options taken" in made.meta["notes"][0] and "differs" not in " ".join(made.meta["notes"])
    assert imported(source, "--env-option", "g=9.0", folder=tmp_path) == 2
    assert "recorded with g=2.0, not 9.0" in capsys.readouterr().err and not (tmp_path / "made").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrappers_that_cannot_be_undone_are_named(record, tmp_path, capsys):
    source = record(gym.wrappers.NormalizeObservation(gym.make(PENDULUM)))
    assert imported(source, "--force", folder=tmp_path) == 2
    assert "was recorded through NormalizeObservation, which cannot be undone" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_text_in_recorded_options_must_be_confirmed(record, tmp_path, capsys):
    source = record(gym.make(PENDULUM))
    path = tmp_path / "minari" / "theirs-v0" / "data" / "metadata.json"
    fields = json.loads(path.read_text())
    spec = json.loads(fields["env_spec"]) | {"kwargs": {"xml_file": "/somewhere/else.xml"}}
    path.write_text(json.dumps(fields | {"env_spec": json.dumps(spec)}))
    assert imported(source, folder=tmp_path) == 2
    assert "confirm it by --env-option xml_file=VALUE" in capsys.readouterr().err


@pytest.mark.slow
def test_episodes_that_do_not_replay_need_force(dataset, dataset_folder, policy_zips, tmp_path, capsys):
    pool = [dataclasses.replace(t, reward=t.reward + 1) for t in dataset.pool]
    Dataset(dataset.meta, pool, dataset.pairs).save(tmp_path / "other")
    line = ["import", "--env", "Hopper-v4", "--out", str(tmp_path / "made"), "--pool", str(tmp_path / "other")]
    assert data_main(line) == 2 and not (tmp_path / "made").exists()
    assert "episode 0, replayed from seed 10000000, differs in reward at step 0 by 1" in capsys.readouterr().err
    assert data_main([*line, "--force"]) == 0 and "note: " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["link", "outside", "huge", "cycle", "pipe", "torn"])
def test_hdf5_of_minari_is_checked_before_it_is_read(record, tmp_path, capsys, kind):
    h5py = pytest.importorskip("h5py")
    source = record(gym.make("Pendulum-v1"))
    path = tmp_path / "minari" / "theirs-v0" / "data" / "main_data.hdf5"
    if kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "torn":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        with h5py.File(path, "r+") as f:
            del f["episode_0/rewards"]
            if kind == "link":
                f["episode_0/rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/x")
            elif kind == "outside":
                f.create_dataset("episode_0/rewards", (200,), "f8", external=[("/dev/zero", 0, 1600)])
            elif kind == "huge":
                f.create_dataset("episode_0/rewards", (10**12,), "f8", chunks=(1000,))
            else:
                f["episode_0/rewards"] = f["/"]
    assert imported(source, folder=tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "main_data.hdf5" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_all_bad_minari_episodes_are_named_and_a_termination_cuts(record, spec, tmp_path):
    import h5py

    source, notes = record(gym.make(PENDULUM, max_episode_steps=200)), []
    with h5py.File(tmp_path / "minari" / "theirs-v0" / "data" / "main_data.hdf5", "r+") as f:
        f["episode_0/terminations"][9] = True
    found = read_episodes(source, spec, notes)
    assert [(len(t), t.terminated, len(t.obs)) for t in found] == [(10, True, 11), (200, False, 201)]
    assert "episode 0 terminates at step 10 of 200 and is cut there" in notes[0]
    with h5py.File(tmp_path / "minari" / "theirs-v0" / "data" / "main_data.hdf5", "r+") as f:
        for i in range(2):
            rewards = f[f"episode_{i}/rewards"][:-1]
            del f[f"episode_{i}/rewards"]
            f[f"episode_{i}/rewards"] = rewards
    with pytest.raises(BadLines) as refusal:
        read_episodes(source, spec)
    assert [fault.partition("episode ")[2][0] for fault in refusal.value.faults] == ["0", "1"]


def test_the_summary_shows_notes_and_options(dataset, tmp_path, capsys):
    meta = {**dataset.meta, "notes": ["something [/x] was dropped"]}
    Dataset(meta, dataset.pool, pd.DataFrame(dataset.pairs)).save(tmp_path / "noted")
    assert data_main(["show", str(tmp_path / "noted")]) == 0
    assert "note: something [/x] was dropped" in capsys.readouterr().out
