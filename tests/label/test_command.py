"""The command `aihf label`: bad input in one line, a running page from start to end, and data that cannot be drawn."""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")
pytest.importorskip("av", reason="needs pip install 'aihf_control[label]'")

from aihf_control.core.errors import BadInput
from aihf_control.core.types import Trajectory
from aihf_control.data.dataset import Dataset
from aihf_control.data.transitions import read_transitions
from aihf_control.environments.gym import spec_of
from aihf_control.label import online
from aihf_control.label.__main__ import Options, main, prepare
from aihf_control.label.background import render_next
from aihf_control.label.clip_folder import ClipFolder
from aihf_control.label.clips import Segment, check_drawable, read_frames, render_clip
from aihf_control.label.plan import Plan
from aihf_control.label.process import CLIPS
from aihf_control.label.server import bind, locked
from aihf_control.label.store import Store
from tests.helpers import ROOT
from tests.label.conftest import add_plain_questions, clip_id, write_clips
from tests.label.page import running_page
from tests.label.visitor import Visitor

WRONG = {
    "no dataset": (["nowhere"], "nowhere"),
    "no pairs": (["DATA", "--pairs", "0"], "--pairs must be at least 1, got 0"),
    "no annotators": (["DATA", "--annotators", "0"], "--annotators must be at least 1, got 0"),
    "share": (["DATA", "--gold", "2"], "--gold must be from 0 to 1, got 2.0"),
    "every interface": (["DATA", "--host", "0.0.0.0"], "is every interface"),
    "other host": (["DATA", "--host", "192.168.1.5"], "--trust-network"),
    "port": (["DATA", "--port", "70000"], "--port must be from 0"),
    "too many annotators": (["DATA", "--annotators", "1001"], "--annotators must be at most 1000, got 1001"),
    "clip": (["DATA", "--clip", "1001"], "--clip must be at most 1000, the steps of an episode, got 1001"),
    "timeout": (["DATA", "--step-timeout", "-1"], "--step-timeout must be at least 0"),
    "keep alone": (["DATA", "--keep"], "--keep is of --export"),
    "nothing to export": (["DATA", "--export", "OUT"], "has no answers; label it first"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_one_line_and_nothing_is_written(words, message, dataset, tmp_path, capsys):
    folder = tmp_path / "data"
    dataset.save(folder)
    named = [{"DATA": str(folder), "OUT": str(tmp_path / "out")}.get(word, word) for word in words]
    assert main(named) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "pool.npz", "preferences.csv"]


def test_a_port_in_use_and_a_folder_in_use_are_refused(tmp_path):
    with bind("127.0.0.1", 0) as first, pytest.raises(BadInput, match="give another --port"):
        bind("127.0.0.1", first.getsockname()[1])
    with locked(tmp_path), pytest.raises(BadInput, match="in use by a running page"), locked(tmp_path):
        pass


@pytest.mark.parametrize("lacking", ["starlette", "uvicorn", "jinja2", "av"])
def test_without_a_package_of_the_page_the_message_is_one_line(lacking, dataset, tmp_path, capsys, monkeypatch):
    dataset.save(tmp_path / "data")
    monkeypatch.setitem(sys.modules, lacking, None)
    for name in ("app", "security"):
        monkeypatch.delitem(sys.modules, f"aihf_control.label.{name}", raising=False)
    assert main([str(tmp_path / "data")]) == 2
    err = capsys.readouterr().err
    assert lacking in err and "pip install 'aihf_control[label]'" in err and err.count("\n") == 1
    copy = importlib.util.spec_from_file_location("copy_of_online", online.__file__)
    module = importlib.util.module_from_spec(copy)
    monkeypatch.setitem(sys.modules, copy.name, module)
    copy.loader.exec_module(module)  # imports without the package, as every `run` does
    spec = spec_of("Hopper-v4")
    with pytest.raises(BadInput, match=lacking), module.page_of_run(tmp_path / "labels", spec, 1, 0, 1, 1, print):
        pass
    assert not (tmp_path / "labels").exists() and not (tmp_path / "data" / "labels").exists()


def test_a_folder_that_cannot_be_written_is_named(dataset, tmp_path, capsys):
    dataset.save(tmp_path / "data")
    (tmp_path / "data" / "labels").write_text("a file in place of the folder")
    assert main([str(tmp_path / "data"), "--port", "0"]) == 2
    err = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'data' / 'labels'}" in err and "--out" not in err and err.count("\n") == 1


def test_episodes_that_cannot_be_drawn_are_refused_before_anything_is_written(dataset, tmp_path, capsys):
    bare = [dataclasses.replace(t, qpos=None, qvel=None, seed=-1 - i) for i, t in enumerate(dataset.pool)]
    dataclasses.replace(dataset, pool=bare).save(tmp_path / "data")
    assert main([str(tmp_path / "data"), "--port", "0"]) == 2
    err = capsys.readouterr().err
    assert "episodes cannot be drawn" in err and "qpos and qvel" in err and err.count("\n") == 1
    assert not (tmp_path / "data" / "labels").exists()


def test_settings_may_change_as_long_as_nothing_was_asked(dataset, tmp_path):
    store = Store(tmp_path / "labels")
    options = Options(tmp_path)
    for clip in (20, 30):
        prepare(store, dataset, options, Plan(clip=clip))
    assert store.fact("clip") == 30
    add_plain_questions(store, 1, 1)
    with pytest.raises(BadInput, match="has questions with clip 30, not 20; give the same settings"):
        prepare(store, dataset, options, Plan(clip=20))


def test_labels_of_other_episodes_are_refused(dataset, tmp_path, capsys):
    folder = tmp_path / "data"
    dataset.save(folder)
    store = Store(folder / "labels")
    store.fact("pool", "another hash")
    store.add_annotators(["ann"])
    add_plain_questions(store, 1, 1)
    assert main([str(folder), "--port", "0"]) == 2
    assert "has questions with pool another hash" in capsys.readouterr().err


def test_the_answers_so_far_are_exported(dataset, tmp_path, capsys):
    folder, out = tmp_path / "data", tmp_path / "out"
    dataset.save(folder)
    store = Store(folder / "labels")
    store.add_annotators(["ann"])
    for q in add_plain_questions(store, 1, 3, first=4):  # its clips are steps 0 to 10 of episodes 4 to 9
        store.answer(1, q, "first", 1.0)
    assert main([str(folder), "--export", str(out)]) == 0
    assert "3 training comparisons" in capsys.readouterr().out and Dataset.load(out).sizes[1] == 3


# ------------------------------------------------------------------------------------------------------------ pictures


def columns_of(dataset, states: bool) -> dict[str, np.ndarray]:
    spec = spec_of("Hopper-v4")
    pool = dataset.pool[:6]
    columns = {
        "observations": np.concatenate([t.obs for t in pool]),
        "actions": np.concatenate([spec.to_env(t.act) for t in pool]),
        "rewards": np.concatenate([t.reward for t in pool]),
        "terminals": np.array([t.terminated for t in pool]),
        "lengths": np.array([len(t) for t in pool]),
    }
    names = ("qpos", "qvel") if states else ()
    return columns | {name: np.concatenate([getattr(t, name) for t in pool]) for name in names}


def read(tmp_path: Path, columns: dict[str, np.ndarray]) -> list[Trajectory]:
    np.savez(tmp_path / "pool.npz", **columns)
    return read_transitions(tmp_path / "pool.npz", spec_of("Hopper-v4"))


def test_imported_states_are_those_of_the_episodes(dataset, tmp_path):
    pool = read(tmp_path, columns_of(dataset, states=True))
    for t, original in zip(pool, dataset.pool, strict=False):
        assert np.array_equal(t.qpos, original.qpos) and np.array_equal(t.qvel, original.qvel)
    meta = dataset.meta | {"demonstrations": [], "held_out": []}
    dataclasses.replace(dataset, meta=meta, pool=pool, pairs=dataset.pairs.iloc[:0]).save(tmp_path / "out")
    check_drawable(Dataset.load(tmp_path / "out").pool)


@pytest.mark.parametrize("flags", [{}, {"next_observations": True}])
def test_states_of_plain_transitions_have_a_row_more_than_steps(dataset, tmp_path, flags):
    t = next(t for t in dataset.pool if t.terminated)
    columns = {"obs": t.obs[:-1], "act": spec_of("Hopper-v4").to_env(t.act), "reward": t.reward}
    columns |= {"qpos": t.qpos[:-1], "qvel": t.qvel[:-1], "done": np.eye(len(t), dtype=bool)[-1]}
    (found,) = read(tmp_path, {**columns, **{name: t.obs[1:] for name in flags}})
    assert found.qpos is not None and len(found.qpos) == len(found) + 1
    assert np.array_equal(found.qpos[:-1], t.qpos[:-1]) and np.array_equal(found.qpos[-1], t.qpos[-2])


def test_one_column_of_states_is_refused(dataset, tmp_path):
    columns = columns_of(dataset, states=True)
    for wrong, message in (({"qvel": None}, "qpos alone"), ({"qpos": columns["qpos"][1:]}, "one for each of obs")):
        with pytest.raises(BadInput, match=message):
            read(tmp_path, {k: v for k, v in (columns | wrong).items() if v is not None})


def test_episodes_without_states_seeds_or_frames_say_what_is_lacking(dataset, tmp_path):
    pool = read(tmp_path, columns_of(dataset, states=False))
    with pytest.raises(BadInput, match=r"6 of 6 episodes cannot be drawn.*qpos and qvel.*--frames"):
        check_drawable(pool)


def test_recorded_frames_take_the_place_of_pictures(dataset, tmp_path):
    pool = dataset.pool[:3]
    n, path = sum(len(t) for t in pool), tmp_path / "frames.npz"
    frames = np.arange(n, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 33, 40, 3), np.uint8)
    np.savez(path, frames=frames)
    found = read_frames(path, pool)
    assert [len(x) for x in found] == [len(t) for t in pool] and found[1][0, 0, 0, 0] == len(pool[0])
    segment = Segment(pool[1], 2, 10, found[1])
    render_clip(tmp_path / "clip.mp4", segment, None)
    import av

    with av.open(str(tmp_path / "clip.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 10 and film.streams.video[0].height == 32
    spec = spec_of("Hopper-v4")
    assert segment.digest(spec) != dataclasses.replace(segment, frames=found[1] + 1).digest(spec)


def test_removed_films_are_drawn_again_those_of_open_questions_first(store):
    """Three of four clips of two questions were removed; the first question is answered."""
    first, _ = add_plain_questions(store, 1, 2)
    store.answer(1, first, "first", 1.0)
    write_clips(store)
    clips = ClipFolder(store.folder / CLIPS)
    for n in (0, 1, 3):
        clips.path(clip_id(n)).unlink()

    class Recorded:
        """A source of clips of grey pictures, without that of clip 1."""

        drawn: ClassVar[list[str]] = []

        def segment(self, clip: str, source: object) -> Segment:
            if clip == clip_id(1):
                raise BadInput("the episode is lost")
            self.drawn.append(clip)
            t = Trajectory(np.zeros((3, 1)), np.zeros((2, 1)), np.zeros(2), False, -1, "x", None, None)
            return Segment(t, 0, 2, np.full((2, 32, 32, 3), 90, np.uint8))

        def choose(self) -> bool:
            return False

    source = Recorded()
    while render_next(store, clips, source, None):
        pass
    assert source.drawn == [clip_id(3), clip_id(0)] and clips.has(clip_id(0)) and not clips.has(clip_id(1))
    assert store.faults() == [] and len(store.open_questions(1)) == 1 and len(store.answers()) == 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"pictures": np.zeros(3)}, "no column frames"),
        ({"frames": np.zeros((5, 32, 32, 3), np.float32)}, "of float32"),
        ({"frames": np.zeros((5, 8, 8, 3), np.uint8)}, "16 to 1024 pixels"),
        ({"frames": np.zeros((5, 32, 32, 3), np.uint8)}, "5 frames; the dataset's 3 episodes"),
    ],
)
def test_wrong_frames_are_refused(dataset, tmp_path, frames, message):
    np.savez(tmp_path / "f.npz", **frames)
    with pytest.raises(BadInput, match=message):
        read_frames(tmp_path / "f.npz", dataset.pool[:3])


def test_the_id_of_a_clip_is_that_of_its_contents(dataset):
    spec, (one, other) = spec_of("Hopper-v4"), dataset.pool[:2]
    digest = Segment(one, 2, 10).digest(spec)
    assert re.fullmatch(r"[0-9a-f]{32}", digest)
    assert Segment(dataclasses.replace(one, level="x"), 2, 10).digest(spec) == digest
    changed = [Segment(one, 3, 10), Segment(one, 2, 9), Segment(other, 2, 10)]
    changed.append(Segment(dataclasses.replace(one, qpos=None, qvel=None), 2, 10))
    assert len({digest, *(s.digest(spec) for s in changed)}) == 5


# ------------------------------------------------------------------------------------------------------- a running page


@pytest.mark.slow
@pytest.mark.parametrize("query", ["uniform", "coverage"])
def test_a_page_from_start_to_end(dataset, tmp_path, can_render, query):
    """Two annotators answer everything; the page is killed in the middle and started again; then it is exported."""
    folder, n = tmp_path / "data", 10
    dataset.save(folder)
    words = ["--pairs", str(n), "--annotators", "2", "--query", query, "--gold", "0.1", "--repeats", "0.1"]
    with running_page(folder, *words) as (process, links):
        assert set(links) == {"person1", "person2", "results"}
        visitor = Visitor(links["person1"])
        for _ in range(4):
            question = visitor.next_question()
            assert question and visitor.request("GET", f"/clip/{question['left']}")[2][4:8] == b"ftyp"
            assert visitor.answer(question["id"], "left") == 200
        process.send_signal(signal.SIGKILL)
    assert len(Store(folder / "labels").answers()) == 4
    with running_page(folder, *words) as (process, links):
        for name in ("person1", "person2"):
            visitor = Visitor(links[name])
            while question := visitor.next_question():
                assert visitor.answer(question["id"], "right") == 200
        assert b"person2" in Visitor(links["results"]).request("GET", "/results")[2]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and "answers in" in out and err == ""
    answers = Store(folder / "labels").answers()
    assert [sum(a.question.annotator == who for a in answers) for who in (1, 2)] == [12, 12]
    assert main([str(folder), "--export", str(tmp_path / "out")]) == 0
    assert Dataset.load(tmp_path / "out").sizes[1] == 2 * n


@pytest.mark.slow
def test_an_environment_that_cannot_be_drawn_is_one_line(dataset, tmp_path):
    folder = tmp_path / "data"
    dataset.save(folder)
    command = [sys.executable, "-m", "aihf_control.label", str(folder), "--port", "0"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "MUJOCO_GL": "paper"}
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "MUJOCO_GL" in done.stderr
