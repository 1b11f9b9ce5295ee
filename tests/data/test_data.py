"""Datasets: what is written is read, what is damaged is refused, what a lane draws is its own, and no reward leaks."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from aihf_control.core.errors import BadInput
from aihf_control.core.files import sha256
from aihf_control.core.types import Clips, Preferences, Steps, Trajectory, cut
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.data.generate import DataConfig, make_dataset
from aihf_control.data.labelling.segments import SegmentPool
from aihf_control.data.pairs import PAIR_COLUMNS
from aihf_control.learning.replay import Batch, Buffer
from aihf_control.learning.task import Task
from aihf_control.models.lanes import Dims
from tests.helpers import SMALL_DATA

few = hypothesis.settings(max_examples=60, deadline=None)


def episode(length: int, terminated: bool, first: float = 0.0) -> Trajectory:
    """An episode whose every number says where it comes from."""
    t = np.arange(length + 1, dtype=np.float32)[:, None] + first
    return Trajectory(np.hstack([t, -t]), t[:-1] / 1000, t[:-1, 0].astype(np.float64), terminated, 7, "expert")


@pytest.fixture
def copy(dataset_folder, tmp_path) -> Path:
    """A copy of the dataset to be damaged."""
    return Path(shutil.copytree(dataset_folder, tmp_path / "copy"))


def rehash(folder: Path) -> None:
    """Makes meta.json agree with the files, so that not the hash but the content is judged."""
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"] = {name: sha256((folder / name).read_bytes()) for name in meta["sha256"]}
    (folder / "meta.json").write_text(json.dumps(meta))


def change_meta(folder: Path, **fields) -> None:
    meta = json.loads((folder / "meta.json").read_text()) | fields
    (folder / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def change_pool(folder: Path, **arrays) -> None:
    with np.load(folder / "pool.npz") as f:
        changed = {**f, **arrays}
    np.savez(folder / "pool.npz", **{name: a for name, a in changed.items() if a is not None})
    rehash(folder)


def change_pairs(folder: Path, **columns) -> None:
    pairs = pd.read_csv(folder / "preferences.csv").assign(**columns)
    pairs.to_csv(folder / "preferences.csv", index=False)
    rehash(folder)


def pool_array(folder: Path, name: str) -> np.ndarray:
    with np.load(folder / "pool.npz") as f:
        return f[name].copy()


def refused(folder: Path, *words: str) -> None:
    """The dataset is refused in one line that holds all these words."""
    with pytest.raises(BadInput) as refusal:
        Dataset.load(folder)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


# -------------------------------------------------------------------------------------------------------------- folder


def test_what_is_saved_is_loaded_bit_for_bit(dataset, tmp_path):
    saved = dataset.save(tmp_path / "again")
    loaded = Dataset.load(tmp_path / "again")
    assert loaded.meta == saved.meta == dataset.meta and loaded.digest() == dataset.digest()
    pd.testing.assert_frame_equal(loaded.pairs, dataset.pairs, check_exact=True)
    assert len(loaded.pool) == len(dataset.pool) == 4 + 3 * 4
    for a, b in zip(loaded.pool, dataset.pool, strict=True):
        assert (a.terminated, a.seed, a.level) == (b.terminated, b.seed, b.level)
        for name in ("obs", "act", "reward", "qpos", "qvel"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype and np.array_equal(x, y)


def test_the_same_config_makes_the_same_dataset(dataset_folder, policy_zips, tmp_path):
    make_dataset("Hopper-v4", SMALL_DATA, policies=policy_zips, out=tmp_path)
    for name in ("pool.npz", "preferences.csv", "meta.json"):
        assert (tmp_path / name).read_bytes() == (dataset_folder / name).read_bytes(), name


@few
@hypothesis.given(weight=st.floats(0, 1e9, allow_nan=False))
def test_weights_survive_the_csv_exactly(dataset, tmp_path_factory, weight):
    folder = tmp_path_factory.mktemp("weights")
    pairs = dataset.pairs.head(1).assign(weight=weight)
    Dataset(dataset.meta, dataset.pool[:16], pairs).save(folder)
    assert Dataset.load(folder).pairs["weight"].item() == weight


@pytest.mark.parametrize("name", ["pool.npz", "preferences.csv"])
def test_a_flipped_bit_is_refused(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    refused(copy, name, "sha256")


@pytest.mark.parametrize("name", ["pool.npz", "preferences.csv", "meta.json"])
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    refused(copy, name)


def test_a_folder_that_is_no_dataset_is_refused_with_what_makes_one(tmp_path):
    refused(tmp_path / "typo", "meta.json", "is no dataset", "aihf data make")


@pytest.mark.parametrize("field", ["env", "horizon", "demonstrations", "sha256", "expert_returns"])
def test_a_missing_meta_field_is_refused(copy, field):
    change_meta(copy, **{field: None})
    refused(copy, "meta.json", field)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"'])
def test_meta_that_is_no_table_is_refused(copy, text):
    (copy / "meta.json").write_text(text)
    refused(copy, "meta.json")


def test_another_schema_is_refused(copy):
    change_meta(copy, schema=99)
    refused(copy, "schema 99")


@pytest.mark.parametrize("field", ["demonstrations", "held_out"])
@pytest.mark.parametrize("value", [[16], [-1], ["0"], 3])
def test_meta_that_names_no_episode_is_refused(copy, field, value):
    change_meta(copy, **{field: value})
    refused(copy, "meta.json", field)


@pytest.mark.parametrize("name", ["obs", "act", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(copy, name, value):
    array = pool_array(copy, name)
    array[3] = value
    change_pool(copy, **{name: array})
    refused(copy, "pool.npz", name, "finite")


@pytest.mark.parametrize("name", ["obs", "act", "reward", "terminated", "seed", "level", "length"])
def test_a_pool_without_one_of_its_arrays_is_refused(copy, name):
    change_pool(copy, **{name: None})
    refused(copy, "pool.npz", name)


@pytest.mark.parametrize("name", ["obs", "act", "reward", "qpos", "level"])
def test_arrays_of_the_wrong_length_are_refused(copy, name):
    change_pool(copy, **{name: pool_array(copy, name)[:-1]})
    refused(copy, "pool.npz", name)


def test_observations_that_are_no_rows_are_refused(copy):
    change_pool(copy, obs=pool_array(copy, "obs").ravel())
    refused(copy, "pool.npz", "obs")


def test_episodes_of_no_steps_are_refused(copy):
    length = pool_array(copy, "length")
    length[:2] = 0, length[0] + length[1]
    change_pool(copy, length=length)
    refused(copy, "pool.npz", "length")


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "executed")


def test_a_pickle_inside_is_refused_and_not_executed(copy, tmp_path):
    marker = tmp_path / "marker"
    level = np.array([Bomb(marker)] * 16, dtype=object)
    change_pool(copy, level=level)
    refused(copy, "pool.npz")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # it would have been


@pytest.mark.parametrize("content", [b"", b"no zip", b"\x93NUMPY", b"PK\x03\x04 torn"])
def test_a_pool_that_is_no_npz_is_refused(copy, content):
    (copy / "pool.npz").write_bytes(content)
    rehash(copy)
    refused(copy, "pool.npz")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'"a\n"b,c\n1,2,3,4\n', b"win_episode,win_start\n1,2\n"])
def test_comparisons_that_are_no_table_are_refused(copy, content):
    (copy / "preferences.csv").write_bytes(content)
    rehash(copy)
    refused(copy, "preferences.csv")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("win_episode", 16),
        ("lose_episode", -1),
        ("win_start", 5000),
        ("lose_start", -1),
        ("length", 0),
        ("win_start", 0.5),
        ("length", "ten"),
        ("weight", -1.0),
        ("weight", np.nan),
        ("split", "validation"),
    ],
)
def test_comparisons_of_what_is_not_there_are_refused(copy, column, value):
    change_pairs(copy, **{column: value})
    refused(copy, "preferences.csv")


def test_a_refused_comparison_is_named_by_its_row(copy):
    pairs = pd.read_csv(copy / "preferences.csv")
    pairs.loc[4, "lose_episode"] = 99
    change_pairs(copy, lose_episode=pairs["lose_episode"])
    refused(copy, "preferences.csv, row 6", "episode 99")


def test_a_save_that_broke_off_is_not_mistaken_for_a_dataset(dataset, copy):
    unwritable = {**dataset.meta, "options": {("no", "key"): 1}}
    with pytest.raises(TypeError):
        Dataset(unwritable, dataset.pool, dataset.pairs.head(3)).save(copy)
    assert {p.name for p in copy.iterdir()} == {"pool.npz", "preferences.csv", "meta.json"}
    refused(copy, "preferences.csv", "sha256")


# -------------------------------------------------------------------------------------------------------------- making


def test_a_clip_longer_than_every_episode_is_refused():
    pool = [episode(3, terminated=False), episode(4, terminated=False)]
    with pytest.raises(BadInput, match=r"--clip 5 is longer than every episode .* longest has 4 steps"):
        SegmentPool(pool, [0, 1], 5).draw(3, np.random.default_rng(0))


def test_whole_trajectories_are_compared_when_the_clip_is_zero(policy_zips, tmp_path):
    cfg = DataConfig(demos=1, episodes=4, noise=(0.0,), pairs=6, test_pairs=3, clip=0)
    dataset = make_dataset("Hopper-v4", cfg, policy_zips, tmp_path)
    assert set(dataset.pairs["length"]) == {dataset.meta["horizon"]} == {1000}
    assert set(dataset.pairs["win_start"]) | set(dataset.pairs["lose_start"]) == {0}
    pairs = Dataset.load(tmp_path).draw(0, 1, 6).pairs
    for clips, column in ((pairs.win, "win_episode"), (pairs.lose, "lose_episode")):
        episodes = dataset.pairs[dataset.pairs["split"] == "train"][column]
        assert clips.real.shape == (6, 1000)
        assert clips.real.sum(-1).tolist() == [len(dataset.pool[i]) for i in episodes]


def test_without_doubt_the_better_clip_wins(policy_zips):
    cfg = DataConfig(demos=0, episodes=4, noise=(0.0,), pairs=50, test_pairs=50, clip=10, teacher="oracle")
    dataset = make_dataset("Hopper-v4", cfg, policy_zips)
    gain = {
        side: [
            dataset.pool[r[f"{side}_episode"]].return_of(r[f"{side}_start"], 10) for _, r in dataset.pairs.iterrows()
        ]
        for side in ("win", "lose")
    }
    assert (np.array(gain["win"]) >= np.array(gain["lose"])).all() and gain["win"] != gain["lose"]


def test_held_out_episodes_are_in_no_training_comparison(dataset):
    train = dataset.pairs[dataset.pairs["split"] == "train"]
    test = dataset.pairs[dataset.pairs["split"] == "test"]
    used = {
        name: set(rows["win_episode"]) | set(rows["lose_episode"]) for name, rows in (("train", train), ("test", test))
    }
    held_out, demos = set(dataset.meta["held_out"]), set(dataset.meta["demonstrations"])
    assert held_out and used["test"] <= held_out
    assert not used["train"] & held_out and not demos & (used["train"] | held_out)


def test_demonstrators_in_turn(policy_zips):
    levels = ("expert", "weak+0.6", "weak+0.6")
    cfg = DataConfig(demos=5, demo_levels=levels, episodes=4, noise=(0.0,), pairs=0, test_pairs=0, clip=10)
    made = make_dataset("Hopper-v4", cfg, policy_zips)
    assert [t.level for t in made.demonstrations] == ["expert", "expert", "weak+0.6", "weak+0.6", "weak+0.6"]
    assert len({t.seed for t in made.pool}) == len(made.pool)


def test_a_dataset_without_comparisons_is_a_dataset(policy_zips, tmp_path):
    cfg = DataConfig(demos=2, episodes=4, noise=(0.0,), pairs=0, test_pairs=0, clip=10)
    make_dataset("Hopper-v4", cfg, policy_zips, tmp_path)
    share = Dataset.load(tmp_path).draw(0, 2, 0)
    assert len(share.demos) == 2 and share.pairs is None and share.clip_steps is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"demos": -1},
        {"pairs": -1},
        {"episodes": 1},
        {"error": 0.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"skip": float("nan")},
        {"skip": 99.0},
        {"equal": -0.1},
        {"memory": 0.0},
        {"memory": 1.1},
        {"demo_level": "nobody"},
        {"demo_levels": ("expert", "nobody")},
        {"clip_grid": 0},
        {"demo_level": "expert+many"},
        {"demo_level": "expert+1.5"},
        {"demo_every": 0},
        {"balance": (4, 4)},
        {"balance": (3, 3, 3)},
        {"balance": (4, 0, 4)},
        {"discount": 1.0},
        {"label": "regret", "teacher": "myopic"},
        {"levels": ()},
        {"noise": ()},
    ],
)
def test_senseless_settings_are_refused(policy_zips, wrong, tmp_path):
    with pytest.raises(BadInput):
        make_dataset(
            "Hopper-v4", DataConfig(**({"demos": 1, "episodes": 4, "pairs": 2} | wrong)), policy_zips, tmp_path
        )
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_makes_and_shows_a_dataset(policy_zips, tmp_path, capsys):
    sizes = ["--demos", "2", "--episodes", "4", "--noise", "0", "--pairs", "10", "--test-pairs", "5", "--clip", "10"]
    sizes += ["--demo-level", "expert", "--teacher", "noisy"]
    policies = ["--policy", *(f"{level}={path}" for level, path in policy_zips.items())]
    assert (
        data_main(
            [
                "make",
                "--env",
                "Hopper-v4",
                "--out",
                str(tmp_path / "made"),
                *policies,
                *sizes,
                "--temperature",
                "0",
                "--force",
            ]
        )
        == 0
    )
    assert len(Dataset.load(tmp_path / "made").pool) == 2 + 3 * 4
    capsys.readouterr()
    assert data_main(["show", str(tmp_path / "made")]) == 0
    message = capsys.readouterr().out
    assert "demonstrations (expert)" in message and "10 train comparisons" in message and "100.0% prefer" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("show absent", "absent"),
        ("make --env Nope-v0 --out made", "Nope-v0"),
        ("make --env Hopper-v4 --out made --policy expert", "LEVEL=FILE.zip"),
        ("make --env Hopper-v4 --out made --policy expert=absent.zip", "absent.zip"),
        ("make --env Hopper-v4 --out made --episodes 2", "--episodes 2"),
        ("make --env Pendulum-v1 --out made --policy expert={expert}", "was trained on 11 observations"),
        ("make --env Hopper-v4 --out made --force --policy expert={expert} --levels expert guru", "'guru'"),
    ],
)
def test_the_commands_refuse_in_one_line_and_leave_nothing(policy_zips, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert data_main(words.format(**policy_zips).split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------- lanes


def test_lanes_draw_by_their_seed(dataset):
    one, other, again = dataset.draw(0, 2, 20), dataset.draw(1, 2, 20), dataset.draw(0, 2, 20)
    for a, b in zip(one.pairs.win, again.pairs.win, strict=True):
        assert np.array_equal(a, b)
    assert [t.seed for t in one.demos] == [t.seed for t in again.demos]
    assert not np.array_equal(one.pairs.win.obs, other.pairs.win.obs)
    drawn = {tuple(t.seed for t in dataset.draw(seed, 2, 0).demos) for seed in range(8)}
    assert len(drawn) > 3


def test_what_a_lane_gets_does_not_depend_on_the_lanes_beside_it(dataset):
    beside, alone = Task(dataset, (0, 1, 2), 2, 20), Task(dataset, (1,), 2, 20)
    for name in ("demos", "clips"):
        a, b = getattr(beside, name), getattr(alone, name)
        n = int(b.count[0])
        assert int(a.count[1]) == n and np.array_equal(a.data[1, :n], b.data[0, :n])
        assert not np.array_equal(a.data[0, :n], b.data[0, :n])
        assert np.array_equal(a.sample(9).obs[1], b.sample(9).obs[0])
    for a, b in zip(beside.comparisons().draw(100).win, alone.comparisons().draw(100).win, strict=True):
        assert np.array_equal(a[1], b[0])


def test_a_draw_is_without_replacement_and_keeps_to_the_training_split(dataset):
    share = dataset.draw(5, 4, 60)
    assert len({t.seed for t in share.demos}) == 4
    everything = dataset.preferences(dataset.pairs[dataset.pairs["split"] == "train"])
    assert np.array_equal(share.pairs.win.obs, everything.win.obs)
    assert np.array_equal(share.pairs.weight, everything.weight)


@pytest.mark.parametrize(
    ("demos", "pairs", "flag"), [(5, 0, "--demos 5"), (0, 61, "--pairs 61"), (-1, 0, "--demos -1")]
)
def test_more_than_there_is_cannot_be_drawn(dataset, demos, pairs, flag):
    with pytest.raises(BadInput, match=flag):
        dataset.draw(0, demos, pairs)


def test_clip_steps_are_the_steps_inside_the_clips_once_each(dataset):
    share = dataset.draw(2, 1, 30)
    inside = {row.tobytes() for c in (share.pairs.win, share.pairs.lose) for row in c.obs[c.real > 0]}
    assert {row.tobytes() for row in share.clip_steps.obs} == inside
    assert len(share.clip_steps.obs) == len(inside)


@pytest.mark.parametrize("kind", [Steps, Clips, Preferences, Batch])
def test_what_learners_get_has_no_place_for_a_reward(kind):
    assert not [name for name in kind._fields if "rew" in name or "gain" in name or "return" in name]


def test_the_replay_holds_no_column_but_the_transition():
    buffer = Buffer(Dims((0,), 11, 3), 4)
    assert buffer.data.shape[-1] == 11 + 3 + 11 + 1
    assert set(buffer.state_dict()) == {"count", "rng"}


def test_the_true_reward_is_in_nothing_that_a_lane_draws(dataset):
    """Paid otherwise, the same episodes give a lane exactly the same."""
    changed = [dataclasses.replace(t, reward=-1000 * t.reward + 1) for t in dataset.pool]
    a, b = dataset.draw(1, 2, 20), Dataset(dataset.meta, changed, dataset.pairs).draw(1, 2, 20)
    for x, y in (
        (a.clip_steps, b.clip_steps),
        (a.pairs.win, b.pairs.win),
        (a.pairs.lose, b.pairs.lose),
        (a.demos[0].steps(), b.demos[0].steps()),
    ):
        assert all(np.array_equal(c, d) for c, d in zip(x, y, strict=True))


# --------------------------------------------------------------------------------------------------------------- clips


def test_a_clip_that_overruns_a_fall_is_padded_with_steps_that_are_not_real():
    clips = cut([episode(5, terminated=True, first=1.0)], [(0, 3, 4), (0, 0, 2)])
    assert clips.real.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert clips.obs[0, :, 0].tolist() == [4, 5, 0, 0]
    assert clips.obs[1, :, 0].tolist() == [1, 2, 0, 0]
    assert not clips.act[clips.real == 0].any()


episodes = st.builds(episode, st.integers(1, 12), st.booleans(), st.integers(1, 50).map(float))


@few
@hypothesis.given(t=episodes, length=st.integers(1, 15))
def test_every_start_gives_a_clip_and_the_next_one_would_not(t, length):
    for start in range(t.starts(length)):
        real = cut([t], [(0, start, length)]).real[0]
        assert real.sum() == min(length, len(t) - start) >= 1
        assert t.terminated or real.all()
    overrun = t.starts(length)
    assert overrun == len(t) if t.terminated else overrun + length > len(t) or overrun == 0


@few
@hypothesis.given(pool=st.lists(episodes, min_size=1, max_size=3), data=st.data())
def test_cutting_copies_exactly_the_steps_it_names(pool, data):
    references = []
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(pool) - 1))
        references.append((i, data.draw(st.integers(0, len(pool[i]) - 1)), data.draw(st.integers(1, 15))))
    clips = cut(pool, references)
    longest = max(length for _, _, length in references)
    for n, (i, start, length) in enumerate(references):
        stop = min(start + length, len(pool[i]))
        real = clips.real[n].astype(bool)
        assert real.shape == (longest,) and real.tolist() == [k < stop - start for k in range(longest)]
        assert np.array_equal(clips.obs[n][real], pool[i].obs[start:stop])
        assert np.array_equal(clips.act[n][real], pool[i].act[start:stop])
        assert not clips.obs[n][~real].any() and not clips.act[n][~real].any()


@few
@hypothesis.given(t=episodes, start=st.integers(0, 11), length=st.integers(1, 15))
def test_a_clips_true_return_is_that_of_its_real_steps(t, start, length):
    assert t.return_of(start, length) == sum(t.reward[start : start + length])


@few
@hypothesis.given(t=episodes)
def test_only_a_fall_is_done(t):
    steps = t.steps()
    assert len(steps.obs) == len(steps.act) == len(steps.next_obs) == len(steps.done) == len(t)
    assert steps.done.sum() == t.terminated == steps.done[-1]
    assert np.array_equal(steps.obs[1:], steps.next_obs[:-1])


@few
@hypothesis.given(t=episodes, every=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_thinned_demonstration_is_some_of_its_steps_each_whole(t, every, seed):
    t = dataclasses.replace(t, seed=seed)
    whole, thin = t.steps(), dataclasses.replace(t, every=every).steps()
    first = seed % min(every, len(t))
    for column, kept in zip(whole, thin, strict=True):
        assert np.array_equal(column[first::every], kept)
    assert 1 <= len(thin.act) <= -(-len(t) // every)
    assert np.array_equal(thin.next_obs - thin.obs, np.array([[1, -1]] * len(thin.act)))


def test_a_lane_gets_thinned_demonstrations_and_whole_clips(policy_zips):
    cfg = DataConfig(demos=3, episodes=4, noise=(0.0,), pairs=6, test_pairs=3, clip=10, demo_every=4)
    dataset = make_dataset("Hopper-v4", cfg, policy_zips)
    task = Task(dataset, (0,), 2, 6)
    drawn = dataset.draw(0, 2, 6).demos
    assert int(task.demos.count[0]) == sum(len(t.steps().act) for t in drawn) < sum(map(len, drawn)) / 3
    whole = {
        row.numpy().tobytes() for c in (task.comparisons().win, task.comparisons().lose) for row in c.obs[c.real > 0]
    }
    assert task.clips is not None and int(task.clips.count[0]) == len(whole)


@pytest.mark.parametrize("every", [0, 1.5, "2", None])
def test_demonstrations_thinned_by_no_number_are_refused(copy, every):
    meta = json.loads((copy / "meta.json").read_text()) | {"demo_every": every}
    (copy / "meta.json").write_text(json.dumps(meta))
    refused(copy, "meta.json", "demo_every")


def test_levels_may_have_their_own_numbers_of_episodes(policy_zips):
    cfg = DataConfig(demos=1, levels=("weak", "expert+0.5"), noise=(0.0,), balance=(2, 5), pairs=4, clip=10)
    dataset = make_dataset("Hopper-v4", cfg, policy_zips)
    assert [t.level for t in dataset.pool] == ["expert", *["weak"] * 2, *["expert+0.5"] * 5]
    assert dataset.meta["held_out"] == [7]


def test_the_demonstrator_is_the_expert_or_the_first_level(policy_zips):
    cfg = DataConfig(demos=1, episodes=4, noise=(0.0,), pairs=0, test_pairs=0)
    assert make_dataset("Hopper-v4", cfg, policy_zips).pool[0].level == "expert"
    one = {"good": policy_zips["expert"]}
    dataset = make_dataset("Hopper-v4", cfg, one)
    assert dataset.pool[0].level == dataset.meta["config"]["demo_level"] == "good"


def test_comparisons_name_their_columns(dataset):
    assert tuple(dataset.pairs.columns) == PAIR_COLUMNS
