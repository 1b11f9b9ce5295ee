"""Bring your own: what comes in is what went out, and what is wrong is named line by line with nothing written."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aihf_control.core.errors import BadInput, BadLines
from aihf_control.core.types import Trajectory
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.comparison_csv import read_comparisons
from aihf_control.data.dataset import Dataset
from aihf_control.data.importing import ImportConfig, import_dataset
from aihf_control.data.sources import find_misfit, read_episodes
from aihf_control.data.transitions import read_transitions
from aihf_control.environments.gym import spec_of
from aihf_control.environments.rollout import rollout

PENDULUM = "Pendulum-v1"


@pytest.fixture(scope="module")
def episodes() -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return rollout(spec_of(PENDULUM), lambda obs: rng.uniform(-1, 1, (len(obs), 1)).astype(np.float32), [3, 4, 5])


def transitions(episodes: list[Trajectory], scale: float = 2.0) -> dict[str, np.ndarray]:
    """D4RL's columns, actions in Pendulum's own units."""
    steps = [t.steps() for t in episodes]
    timeouts = np.concatenate([np.arange(len(t)) == len(t) - 1 for t in episodes])
    return {
        "observations": np.concatenate([s.obs for s in steps]),
        "actions": np.concatenate([scale * s.act for s in steps]),
        "next_observations": np.concatenate([s.next_obs for s in steps]),
        "rewards": np.concatenate([t.reward for t in episodes]),
        "terminals": np.zeros(len(timeouts), bool),
        "timeouts": timeouts,
    }


@pytest.fixture
def npz(episodes, tmp_path) -> Path:
    np.savez(tmp_path / "mine.npz", **transitions(episodes))
    return tmp_path / "mine.npz"


def csv_of(folder: Path, *lines: str, header: str = "win_episode,win_start,lose_episode,lose_start,length") -> Path:
    (folder / "pairs.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "pairs.csv"


# ---------------------------------------------------------------------------------------------------------- transitions


def test_transitions_become_the_episodes_they_were(npz, episodes):
    found = read_episodes(str(npz), spec_of(PENDULUM))
    for a, b in zip(found, episodes, strict=True):
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.reward, b.reward) and not a.terminated
        np.testing.assert_allclose(a.act, b.act, atol=1e-6)
    assert [t.seed for t in found] == [-1, -2, -3] and {t.level for t in found} == {"mine"}


def test_a_fall_ends_an_episode_and_the_file_ends_the_last(episodes, tmp_path):
    columns = transitions(episodes)
    columns["terminals"][49] = True
    for name in ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts"):
        columns[name] = np.delete(columns[name], np.r_[50:200, 590:600], 0)
    np.savez(tmp_path / "cut.npz", **columns)
    found = read_transitions(tmp_path / "cut.npz", spec_of(PENDULUM))
    assert [(len(t), t.terminated) for t in found] == [(50, True), (200, False), (190, False)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "lacks reward or rewards or rews"),
        ({"actions": np.zeros(3)}, "needs"),
        ({"observations": np.array(["a"] * 600)}, "of <U1"),
        ({"next_observations": np.zeros((600, 4), np.float32)}, "next_obs has another shape than obs"),
        ({"terminals": np.zeros((0,), bool)}, "it needs 600 rows"),
    ],
)
def test_an_npz_that_is_no_table_of_transitions_is_refused(episodes, tmp_path, change, message):
    columns = {k: v for k, v in (transitions(episodes) | change).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **columns)
    with pytest.raises(BadInput, match=message) as refusal:
        read_episodes(str(tmp_path / "bad.npz"), spec_of(PENDULUM))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 torn"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot read .*bad\.npz as an npz"):
        read_episodes(str(tmp_path / "bad.npz"), spec_of(PENDULUM))


def test_rows_that_do_not_follow_each_other_are_each_named(episodes, tmp_path):
    columns = transitions(episodes)
    columns["next_observations"][[7, 300]] += 1
    np.savez(tmp_path / "torn.npz", **columns)
    with pytest.raises(BadLines) as refusal:
        read_episodes(str(tmp_path / "torn.npz"), spec_of(PENDULUM))
    assert [fault.partition("row ")[2].partition(":")[0] for fault in refusal.value.faults] == ["7", "300"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"obs": t.obs[:, :2]}, "has (3,) and (1,)"),
        (lambda t: {"reward": np.where(np.arange(200) > 197, np.nan, t.reward)}, "not finite at step 198 and 1 more"),
        (lambda t: {"act": np.where(np.arange(200)[:, None] == 9, 1.5, t.act)}, "action at step 9 is out of"),
        (lambda t: {"act": np.tile(t.act, (2, 1)), "reward": np.tile(t.reward, 2)}, "an episode has 1 to 200"),
    ],
)
def test_an_episode_of_another_environment_is_refused_with_the_reason(episodes, change, message):
    t = episodes[0]
    assert find_misfit(t, spec_of(PENDULUM)) is None
    assert message in str(find_misfit(dataclasses.replace(t, **change(t)), spec_of(PENDULUM)))


# ---------------------------------------------------------------------------------------------------------- comparisons


def test_a_csv_of_comparisons_is_read(episodes, tmp_path):
    header = "win_episode,win_start,lose_episode,lose_start,length,weight,split,remark"
    path = csv_of(tmp_path, "0,0,1,5,50,0.5,train,x", "1,5,0,0,50,0.5,train,", "2,150,1,60,50,,test,", header=header)
    pairs = read_comparisons(path, episodes)
    assert pairs["weight"].tolist() == [0.5, 0.5, 1.0] and pairs["split"].tolist() == ["train", "train", "test"]
    assert pairs[["win_episode", "lose_start", "length"]].to_numpy().tolist() == [[0, 5, 50], [1, 0, 50], [2, 60, 50]]
    assert set(pairs["annotator"]) == {"imported"}


def test_every_bad_line_is_named_with_its_reason(episodes, tmp_path):
    header = "win_episode,win_start,lose_episode,lose_start,length,weight,split"
    bad = {
        "3,0,1,0,50,1,train": "there is no episode 3",
        "0,151,1,0,50,1,train": "no clip of 50 steps begins at 151 of episode 0, which ends after 200 steps",
        "0,x,1,0,50,1,train": "win_start is 'x'",
        "0,-1,1,0,50,1,train": "win_start is '-1'",
        ",0,1,0,50,1,train": "win_episode is empty",
        "0,0,1,0,40,1,train": "length is 40, that of the first line is 50",
        "1,7,1,7,50,1,train": "compared with itself",
        "0,0,1,0,50,0,train": "weight is '0'",
        "0,0,1,0,50,nan,train": "weight is 'nan'",
        "0,0,1,0,50,1,dev": "split is 'dev'",
        "0,0,1,0,50,1,train,9": "more cells than the header",
        "0,0": "lose_episode is empty",
    }
    path = csv_of(tmp_path, "0,0,1,0,50,1,train", *bad, header=header)
    with pytest.raises(BadLines) as refusal:
        read_comparisons(path, episodes)
    for number, (fault, message) in enumerate(zip(refusal.value.faults, bad.values(), strict=True), 3):
        assert f"line {number}: " in fault and message in fault, fault


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns"),
        (b"win_episode,win_start\n0,0\n", "lacks the columns length, lose_episode, lose_start"),
        (b"win_episode,win_start,lose_episode,lose_start,length\n", "no line of comparisons"),
        (b"\xff\xfe\x00", "as a csv"),
        (b'win_episode,win_start,lose_episode,lose_start,length\n"0,0,1,0,5\n', "as a csv"),
    ],
)
def test_what_is_no_table_of_comparisons_is_refused(episodes, tmp_path, content, message):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_comparisons(tmp_path / "pairs.csv", episodes)


def test_bad_lines_are_listed_up_to_a_limit_and_nothing_is_written(npz, tmp_path, capsys):
    path = csv_of(tmp_path, *["0,0,9,0,50"] * 30)
    words = f"import --env {PENDULUM} --out {tmp_path / 'made'} --pool {npz} --pairs {path}".split()
    assert data_main(words) == 2 and not (tmp_path / "made").exists()
    err = capsys.readouterr().err.splitlines()
    assert len(err) == BadLines.SHOWN + 2 and err[-2] == "... and 10 more"
    assert err[0].startswith(f"{path}, line 2: there is no episode 9") and err[-1].startswith(
        f"error: {path}: 30 faults"
    )


def test_a_dataset_of_ones_own_is_made_shown_and_learned_from(npz, tmp_path, capsys):
    from aihf_control.learning.task import Task

    lines = [f"{i},{t},{1 - i},{150 - t},50" for i in (0, 1) for t in range(0, 100, 10)]
    path = csv_of(tmp_path, *lines)
    words = f"import --env {PENDULUM} --out {tmp_path / 'made'} --demos {npz} --pool {npz} --pairs {path} --force"
    assert data_main([*words.split(), "--demo-every", "20"]) == 0
    made = Dataset.load(tmp_path / "made")
    assert len(made.pool) == 6 and made.meta["demonstrations"] == [3, 4, 5] and made.meta["held_out"] == [2]
    assert len({t.seed for t in made.pool}) == 6 and len(made.meta["expert_returns"]) == 3
    task = Task(made, (0,), 2, 20)
    assert int(task.demos.count[0]) == 2 * 10
    capsys.readouterr()
    assert data_main(["show", str(tmp_path / "made")]) == 0 and "20 train comparisons" in capsys.readouterr().out


def test_nothing_to_import_is_refused(tmp_path, capsys):
    assert data_main(["import", "--env", PENDULUM, "--out", str(tmp_path / "made")]) == 2
    assert "nothing to import" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_expert_may_be_given(dataset_folder, policy_zips):
    made = import_dataset("Hopper-v4", ImportConfig(demos=(str(dataset_folder),), expert=policy_zips["weak"]))
    assert len(set(made.meta["expert_returns"])) == 20 and not len(made.pairs) and made.draw(0, 3, 0).pairs is None


# --------------------------------------------------------------------------------------------------------------- Minari


@pytest.fixture
def minari_root(tmp_path, monkeypatch) -> Path:
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def equal(a: Trajectory, b: Trajectory) -> None:
    assert (a.terminated, a.seed, a.level) == (b.terminated, b.seed, b.level)
    for name in ("obs", "act", "reward", "qpos", "qvel"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y)), name


def test_through_minari_and_back_is_nothing(dataset, dataset_folder, policy_zips, minari_root, tmp_path, capsys):
    expert = policy_zips["expert"]
    assert data_main(["export", str(dataset_folder), "--minari", "hopper/graded-v0"]) == 0
    words = f"import --env Hopper-v4 --out {tmp_path / 'back'} --pool minari:hopper/graded-v0 --force --expert {expert}"
    assert data_main([*words.split(), "--pairs", str(dataset_folder / "preferences.csv")]) == 0
    back = Dataset.load(tmp_path / "back")
    for a, b in zip(back.pool, dataset.pool, strict=True):
        equal(a, b)
    pd.testing.assert_frame_equal(back.pairs, dataset.pairs, check_exact=True, check_dtype=False)
    capsys.readouterr()
    assert data_main(["verify", str(tmp_path / "back")]) == 0
    assert "all 16 episodes" in capsys.readouterr().out


def test_actions_in_odd_units_come_back_bit_for_bit(minari_root, episodes, monkeypatch):
    from aihf_control.data.minari import read_minari, write_minari

    spec = spec_of(PENDULUM)
    odd = dataclasses.replace(spec, low=np.array([-1.9999999]), high=np.array([1.7]))
    for name in ("minari", "minari_metadata"):
        monkeypatch.setattr(f"aihf_control.data.{name}.spec_of", lambda env, **options: odd)
    monkeypatch.setattr("aihf_control.data.minari.recorded_box", lambda name, spec: (spec.low, spec.high))
    meta = {"env": PENDULUM, "options": {}}
    write_minari(Dataset(meta, episodes, pd.DataFrame()), "odd-v0")
    for a, b in zip(read_minari("odd-v0", odd), episodes, strict=True):
        equal(a, b)


@pytest.mark.filterwarnings("ignore:`:UserWarning")
def test_a_minari_dataset_of_others_is_read(minari_root):
    """Written by Minari's own means, without anything of ours: no states, no levels, no seed, one cut short."""
    import minari
    from minari.data_collector import EpisodeBuffer

    env, rng, buffers = __import__("gymnasium").make(PENDULUM), np.random.default_rng(0), []
    for i in range(2):
        obs, act, rew = [env.reset(seed=i)[0]], [], []
        for _ in range(200 - 50 * i):
            act.append(rng.uniform(-2, 2, 1).astype(np.float32))
            o, r, *_ = env.step(act[-1])
            obs.append(o)
            rew.append(float(r))
        n = len(rew)
        truncated = [False] * (n - 1) + [i == 0]
        buffers.append(
            EpisodeBuffer(i, 7 if i else None, None, np.array(obs), np.array(act), rew, [False] * n, truncated, None)
        )
    minari.create_dataset_from_buffers("theirs-v1", buffers, env=env, data_format="hdf5")
    found = read_episodes("minari:theirs-v1", spec_of(PENDULUM))
    assert [(len(t), t.terminated, t.level) for t in found] == [(200, False, "theirs-v1"), (150, False, "theirs-v1")]
    assert [t.seed for t in found] == [-1, 7] and found[0].qpos is None
    np.testing.assert_allclose(spec_of(PENDULUM).to_env(found[1].act), buffers[1].actions, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["no version", "graded", "../up-v0", "x/graded-v0", "a//b-v0", "-v0", "/abs-v0", "ü-v0"]
)
def test_an_id_that_minari_would_choke_on_is_refused_before_anything_is_written(
    dataset_folder, minari_root, name, capsys
):
    assert data_main(["export", str(dataset_folder), f"--minari={name}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "NAME-v0" in err and not minari_root.exists()


def test_an_id_that_is_taken_is_refused_and_kept(dataset_folder, minari_root, capsys):
    for expected in (0, 2):
        assert data_main(["export", str(dataset_folder), "--minari", "twice-v0"]) == expected
    assert "already" in capsys.readouterr().err and len(read_episodes("minari:twice-v0", spec_of("Hopper-v4"))) == 16


def test_an_export_that_breaks_off_leaves_nothing(dataset_folder, minari_root, monkeypatch, capsys):
    import minari.dataset.minari_storage as storage

    monkeypatch.setattr(storage.MinariStorage, "update_metadata", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert data_main(["export", str(dataset_folder), "--minari", "torn-v0"]) == 2
    assert "cannot write" in capsys.readouterr().err and not minari_root.exists()


def test_a_minari_dataset_that_names_a_callable_instead_of_spaces_is_not_opened(dataset_folder, minari_root, tmp_path):
    """Minari would make the environment, which is any callable with any arguments: here one that leaves a file."""
    import gymnasium as gym
    import minari

    assert data_main(["export", str(dataset_folder), "--minari", "evil-v0"]) == 0
    path, marker = minari_root / "evil-v0" / "data" / "metadata.json", tmp_path / "marker"
    about = json.loads(path.read_text())
    evil = gym.envs.registration.EnvSpec("Hopper-v4", entry_point="os:mkdir", kwargs={"path": str(marker)})
    path.write_text(json.dumps({k: v for k, v in about.items() if "space" not in k} | {"env_spec": evil.to_json()}))
    with pytest.raises(BadInput, match="cannot be opened safely"):
        read_episodes("minari:evil-v0", spec_of("Hopper-v4"))
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017  # whatever it is that Minari makes of a folder
        minari.load_dataset("evil-v0")
    assert marker.exists()  # it would have been


def test_what_was_recorded_elsewhere_is_refused(dataset_folder, minari_root):
    assert data_main(["export", str(dataset_folder), "--minari", "four-v0"]) == 0
    with pytest.raises(BadInput, match="was recorded in Hopper-v4; give --env Hopper-v4"):
        read_episodes("minari:four-v0", spec_of("Hopper-v5"))
    with pytest.raises(BadInput, match="was recorded with env Hopper-v4, not Hopper-v5"):
        read_episodes(str(dataset_folder), spec_of("Hopper-v5"))
    with pytest.raises(BadInput, match="was recorded with options"):
        read_episodes(str(dataset_folder), spec_of("Hopper-v4", terminate_when_unhealthy=False))
    for name in ("absent-v0", "../four-v0", "four"):
        with pytest.raises(BadInput):
            read_episodes(f"minari:{name}", spec_of("Hopper-v4"))


@pytest.mark.parametrize("damage", ["metadata.json", "main_data.hdf5", "everything"])
def test_a_damaged_minari_dataset_is_refused_in_one_line(dataset_folder, minari_root, damage, capsys):
    assert data_main(["export", str(dataset_folder), "--minari", "hurt-v0"]) == 0
    for path in (minari_root / "hurt-v0").rglob("*"):
        if path.is_file() and damage in (path.name, "everything"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(BadInput) as refusal:
        read_episodes("minari:hurt-v0", spec_of("Hopper-v4"))
    assert "\n" not in str(refusal.value)


def test_a_relative_minari_folder_is_made_absolute(dataset_folder, tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "here")
    assert data_main(["export", str(dataset_folder), "--minari", "near-v0"]) == 0
    assert (tmp_path / "here" / "near-v0").is_dir() and Path(os.environ["MINARI_DATASETS_PATH"]).is_absolute()
    assert not (tmp_path / "here" / "here").exists()


def test_one_of_our_folders_is_a_source(dataset, dataset_folder, policy_zips, tmp_path):
    csv = dataset_folder / "preferences.csv"
    brought = ImportConfig(pool=(str(dataset_folder),), pairs=csv, expert=policy_zips["expert"])
    made = import_dataset("Hopper-v4", brought, tmp_path / "m")
    for a, b in zip(Dataset.load(tmp_path / "m").pool, dataset.pool, strict=True):
        equal(a, b)
    assert made.meta["demonstrations"] == [] and json.loads((tmp_path / "m" / "meta.json").read_text())["brought"]
