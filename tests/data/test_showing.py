"""Looking at datasets: verify finds the first difference, the figure and the films hold what they should."""

import dataclasses
import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from aihf_control.core.errors import BadInput
from aihf_control.data import video as films
from aihf_control.data.__main__ import main as data_main
from aihf_control.data.dataset import Dataset
from aihf_control.data.verify import find_difference, verify
from aihf_control.data.video import render_comparison
from aihf_control.environments.camera import HEIGHT, WIDTH, Camera
from aihf_control.environments.gym import spec_of


def changed(dataset: Dataset, episode: int, **columns) -> Dataset:
    pool = list(dataset.pool)
    pool[episode] = dataclasses.replace(pool[episode], **columns)
    return dataclasses.replace(dataset, pool=pool)


# --------------------------------------------------------------------------------------------------------------- verify


def test_what_the_simulator_made_it_gives_again(dataset, dataset_folder, capsys):
    assert list(verify(dataset)) == [None] * 16
    assert data_main(["verify", str(dataset_folder)]) == 0
    message = capsys.readouterr().out
    assert "all 16 episodes equal their replay here, bit for bit" in message and "made with python" in message


@pytest.mark.parametrize(("what", "step"), [("obs", 5), ("reward", 6), ("qpos", 5), ("qvel", 5)])
def test_the_first_difference_is_named(dataset, what, step):
    """The last bit of one number, and a later one that is no first difference."""
    column = getattr(dataset.pool[2], what).copy()
    row = column[5:6].reshape(-1)
    row[-1] = np.nextafter(row[-1], np.inf, dtype=row.dtype)
    column[7] += 1
    found = list(verify(changed(dataset, 2, **{what: column})))
    assert [f is None for f in found] == [i != 2 for i in range(16)]
    assert (found[2].episode, found[2].step, found[2].what) == (2, step, what) and 0 < found[2].by < 1e-6


def test_another_action_is_another_episode(dataset):
    act = dataset.pool[0].act.copy()
    act[3] = -act[3]
    (found,) = [f for f in verify(changed(dataset, 0, act=act)) if f]
    assert (found.episode, found.step) == (0, 4) and found.what in ("obs", "reward")


def test_an_episode_that_ends_otherwise_differs(dataset):
    t = dataset.pool[0]
    assert find_difference(0, t, t) is None
    late = dataclasses.replace(t, terminated=not t.terminated)
    found = find_difference(0, t, late)
    assert found is not None and (found.step, found.what) == (len(t), "terminated")


def test_a_dataset_that_does_not_replay_is_exit_code_2(dataset, tmp_path, capsys):
    changed(dataset, 1, reward=dataset.pool[1].reward + 1e-9).save(tmp_path / "other")
    meta = Dataset.load(tmp_path / "other").meta
    dataclasses.replace(
        Dataset.load(tmp_path / "other"), meta={**meta, "versions": {**meta["versions"], "mujoco": "2.1"}}
    ).save(tmp_path / "other")
    assert data_main(["verify", str(tmp_path / "other")]) == 2
    message = capsys.readouterr()
    assert (
        "episode 1 first differs after 1 steps, in reward by 1e-09" in message.out
        and "mujoco 2.1 (here " in message.out
    )
    assert message.err.startswith("error: ") and "1 of 16 episodes" in message.err


def test_an_episode_without_a_seed_cannot_be_verified(dataset, tmp_path, capsys):
    changed(dataset, 3, seed=-1).save(tmp_path / "unknown")
    assert data_main(["verify", str(tmp_path / "unknown")]) == 2
    assert "episode 3" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- looking


def test_the_figure_is_written(dataset_folder, tmp_path, capsys):
    assert data_main(["show", str(dataset_folder), "--figure", str(tmp_path / "d.png")]) == 0
    write_figure = np.asarray(Image.open(tmp_path / "d.png").convert("RGB"))
    assert write_figure.shape[1] > 1000 and len(np.unique(write_figure.reshape(-1, 3), axis=0)) > 50
    assert data_main(["show", str(dataset_folder), "--figure", str(tmp_path / "d.txt")]) == 2
    assert "ends in .png" in capsys.readouterr().err and not (tmp_path / "d.txt").exists()


def test_ties_are_recognised(dataset, capsys, tmp_path):
    a, b = dataset.pairs.iloc[0], dataset.pairs.iloc[0].copy()
    for side, other in (("win", "lose"), ("lose", "win")):
        b[f"{side}_episode"], b[f"{side}_start"] = a[f"{other}_episode"], a[f"{other}_start"]
    pairs = __import__("pandas").DataFrame([a, b, dataset.pairs.iloc[1]])
    pairs["weight"] = [0.5, 0.5, 1.0]
    dataclasses.replace(dataset, pairs=pairs).save(tmp_path / "tied")
    assert data_main(["show", str(tmp_path / "tied")]) == 0
    assert "2 train comparisons" in capsys.readouterr().out.replace("\n", " ")


@pytest.fixture(scope="module")
def drawable():
    """Skips where the machine has nothing to draw with."""
    try:
        with Camera(spec_of("Hopper-v4")):
            pass
    except BadInput as e:
        pytest.skip(str(e))


def test_a_camera_sees_the_state_and_not_what_was_before(dataset, drawable):
    t = max(dataset.pool, key=len)
    with Camera(spec_of("Hopper-v4")) as camera:
        first = list(camera.clip(t, 0, 8, 4))
        again = list(camera.clip(t, 4, 4, 4))
        after = list(camera.clip(t, len(t) - 2, 6, 1))
    assert len(first) == 3 and first[0].shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(first[1], again[0]) and not np.array_equal(first[0], first[1])
    assert len(after) == 7 and t.terminated and np.ptp(after[-1], -1).max() == 0 and np.ptp(after[2], -1).max() > 50


def test_one_camera_after_another_sees(dataset, drawable):
    """The first still held while the second begins, and let go while it draws."""
    seen = []
    for _ in range(3):
        with Camera(spec_of("Hopper-v4")) as camera:
            seen.append(next(camera.clip(dataset.pool[0], 3, 2, 1)))
    assert seen[0].std() > 20 and np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], seen[2])


def test_a_camera_goes_along(dataset, drawable):
    """Four metres on the robot is where it was in the write_figure; the floor is not."""
    t = dataset.pool[0]
    shift = np.zeros_like(t.qpos)
    shift[1:, 0] = 4.0  # two tiles of the floor
    with Camera(spec_of("Hopper-v4")) as camera:
        there = dataclasses.replace(t, qpos=t.qpos[:1] + shift, qvel=0 * t.qvel)
        a, b = list(camera.clip(there, 0, 1, 1))
    brown = [(frame[..., 0] > 1.3 * frame[..., 2].clip(20)) for frame in (a, b)]
    columns = [np.flatnonzero(x.any(0)) for x in brown]
    assert brown[0].sum() > 500 and abs(columns[0].mean() - columns[1].mean()) < 3


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_a_pair_becomes_a_film(dataset_folder, drawable, tmp_path, ending, capsys):
    if ending == "mp4":
        pytest.importorskip("av")
    path = tmp_path / f"pair.{ending}"
    assert data_main(["show", str(dataset_folder), "--render", "1", "--out", str(path)]) == 0
    assert f"wrote {path}: 11 frames" in capsys.readouterr().out
    height, width = HEIGHT + films.CAPTION_HEIGHT, 2 * WIDTH
    if ending == "gif":
        with Image.open(path) as gif:
            assert gif.size == (width, height)
            shown = [gif.seek(i) or gif.info["duration"] for i in range(gif.n_frames)]  # alike ones become one
            assert 11 * 30 <= sum(shown) <= 12 * 30 and len(shown) > 3
        return
    import av

    with av.open(io.BytesIO(path.read_bytes())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 11
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50


@pytest.mark.parametrize(
    ("row", "name", "message"),
    [(0, "pair.avi", ".mp4 or .gif"), (90, "pair.gif", "has 90 comparisons"), (-1, "pair.gif", "has 90 comparisons")],
)
def test_what_cannot_be_drawn_is_refused(dataset, tmp_path, row, name, message):
    with pytest.raises(BadInput, match=message):
        render_comparison(dataset, row, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_episodes_without_states_and_seeds_cannot_be_drawn(dataset, drawable, tmp_path):
    bare = dataclasses.replace(dataset, pool=[dataclasses.replace(t, qpos=None, seed=-1) for t in dataset.pool])
    with pytest.raises(BadInput, match="without simulator states and without the seed"):
        render_comparison(bare, 0, tmp_path / "pair.gif")


def test_an_episode_without_states_is_played_to_be_drawn(dataset, drawable):
    t = dataset.pool[0]
    with Camera(spec_of("Hopper-v4")) as camera:
        put = list(camera.clip(t, 3, 6, 2))
        played = list(camera.clip(dataclasses.replace(t, qpos=None), 3, 6, 2))
    for a, b in zip(put, played, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1


def test_what_needs_a_library_to_be_drawn_says_so(tmp_path):
    if importlib.util.find_spec("pygame"):
        pytest.skip("pygame is here")
    with pytest.raises(BadInput, match=r"cannot render Pendulum-v1: .*pygame"):
        Camera(spec_of("Pendulum-v1"))


def test_without_a_graphics_library_one_line_says_so(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(BadInput, match="MUJOCO_GL is 'nonsense'; known are egl"):
        render_comparison(dataset, 0, tmp_path / "pair.gif")
