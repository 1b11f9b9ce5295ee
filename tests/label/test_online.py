"""People as annotators of a running run: waiting, going on without answers, pausing, killing, resuming."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")

from aihf_control import run
from aihf_control.core.errors import BadInput
from aihf_control.environments.gym import spec_of
from aihf_control.label import online
from aihf_control.label.online import PageAnnotator, RunSegments
from aihf_control.label.store import Store
from aihf_control.learning.annotators import FunctionAnnotator, Played, Query, WaitingEnded
from aihf_control.training.events import Finished, Paused
from aihf_control.training.run import CheckpointPlace, RunSpec, train_lanes
from tests.helpers import ROOT, tiny, words

N, LENGTH = 4, 10
SPEC = RunSpec("oaif", tiny("oaif", steps=8), (0, 1), 1, 6, 8, 1, 1, 1)


class Flag:
    def __init__(self, value=False):
        self.value = value

    def is_set(self):
        return self.value


@pytest.fixture
def folder(tmp_path) -> Path:
    Store(tmp_path / "labels").add_annotators(["person1", "person2"])
    return tmp_path / "labels"


@pytest.fixture
def query(dataset) -> Query:
    """Four pairs of pieces of the dataset's episodes."""

    def played(numbers) -> Played:
        episodes = [dataset.pool[i] for i in numbers]
        return Played(np.stack([t.padded_rewards(0, LENGTH) for t in episodes]), episodes)

    u = np.array([[0.1, 0], [0.9, 0], [0.2, 0], [0.8, 0]])
    return Query(played(range(N)), played(range(N, 2 * N)), u, lambda: False)


@contextlib.contextmanager
def people(folder: Path, choice, limit: int = 10**6):
    """Answer every question while the block runs, `choice` of a question."""
    done = threading.Event()

    def answer() -> None:
        store, left = Store(folder), limit
        while not done.wait(0.02):
            for q in [q for who in store.annotators() for q in store.open_questions(who)][:left]:
                store.answer(q.annotator, q.id, choice(q), 1.0)
                left -= 1

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield
    done.set()
    thread.join()


def by_clip(q) -> str:
    return "first" if q.first > q.second else "second"


def test_answers_are_weights_and_questions_go_round(folder, query):
    page, store = PageAnnotator(folder, spec_of("Hopper-v4")), Store(folder)
    with people(folder, lambda q: ["first", "second", "tie", "skip"][q.id - 1]):
        weights = page.compare(query)
    assert weights.tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0, 0]]
    questions = store.questions()
    assert [q.annotator for q in questions] == [1, 2, 1, 2] and {q.kind for q in questions} == {"run"}
    assert [q.left for q in questions] == ["first", "second", "first", "second"]
    assert page.compare(query).tolist() == weights.tolist() and len(store.questions()) == N  # not asked again


def test_what_is_drawn_is_what_was_played(folder, query):
    with people(folder, by_clip):
        PageAnnotator(folder, spec_of("Hopper-v4")).compare(query)
    spec = spec_of("Hopper-v4")
    source, store = RunSegments(folder / "segments", spec), Store(folder)
    for q, t in zip(store.questions(), query.first.segments, strict=True):
        segment = source.segment(q.first, store.source(q.first))
        assert np.array_equal(segment.episode.qpos, t.qpos) and segment.length == LENGTH
        assert segment.digest(spec) == q.first and segment.episode.terminated == t.terminated
    (folder / "segments" / f"{q.first}.npz").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"cannot read .* as an npz"):
        source.segment(q.first, store.source(q.first))


def test_the_run_ends_its_page_if_the_answers_cannot_be_read(folder, monkeypatch, capsys):
    store, failed = Store(folder), threading.Event()
    store.db.connection.execute("DROP VIEW current")  # as a file that is damaged while it is open
    monkeypatch.setattr(online, "REPORT", 0.01)
    with online._reporting(store, lambda: None, failed.set):
        assert failed.wait(10)
    err = capsys.readouterr().err
    assert err.startswith("the page ended: cannot read") and err.count("\n") == 1


def ask(folder: Path, query: Query) -> Store:
    """Store the questions of a query, and end the waiting for answers at once."""
    with pytest.raises(WaitingEnded):
        PageAnnotator(folder, spec_of("Hopper-v4")).compare(query._replace(ended=lambda: True))
    return Store(folder)


def test_after_the_wait_it_goes_on_with_what_there_is_and_stays_with_it(folder, query):
    store = ask(folder, query)
    for q in store.questions()[:2]:
        store.answer(q.annotator, q.id, "first", 1.0)
    page = PageAnnotator(folder, spec_of("Hopper-v4"), minutes=1e-9)
    assert page.compare(query).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert store.count_open() == 0  # nobody is asked what it went on without
    assert PageAnnotator(folder, page.spec).compare(query).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


def test_a_pause_ends_the_waiting(folder, query):
    asked = itertools.count()
    with pytest.raises(WaitingEnded):
        PageAnnotator(folder, spec_of("Hopper-v4")).compare(query._replace(ended=lambda: next(asked) > 1))
    assert Store(folder).count_open() == N


def test_segments_without_states_and_clips_that_cannot_be_drawn_are_one_line(folder, query):
    bare = [dataclasses.replace(t, qpos=None, qvel=None) for t in query.first.segments]
    page = PageAnnotator(folder, spec_of("Hopper-v4"))
    with pytest.raises(BadInput, match="no simulator states to draw"):
        page.compare(query._replace(first=query.first._replace(segments=bare)))
    store = ask(folder, query)
    store.add_fault(store.questions()[0].first, "no camera")
    with pytest.raises(BadInput, match="a question cannot be shown: no camera"):
        page.compare(query)


def outcome(events):
    *_, done = events
    assert isinstance(done, Finished)
    return {name: np.asarray(x) for name, x in done.policy.items()}


def test_a_run_that_pauses_while_it_waits_resumes_with_all_answers_to_the_same_bits(dataset, folder, tmp_path):
    """Answers are given to some questions, then the run pauses; resumed, it asks only the others."""
    page, place = PageAnnotator(folder, spec_of("Hopper-v4")), CheckpointPlace(tmp_path / "checkpoint", 1e-9)
    pause, store = Flag(), Store(folder)

    def choose(q) -> str:
        pause.value = len(store.answers()) >= 7  # in the second phase, of two
        return by_clip(q)

    with people(folder, choose, limit=8):
        *_, last = train_lanes(SPEC, dataset, pause=pause, place=place, annotator=page)
    assert isinstance(last, Paused) and 0 < last.step < SPEC.steps and len(store.answers()) == 8
    before = {a.question.id: a.number for a in store.answers()}
    with people(folder, by_clip):
        resumed = outcome(train_lanes(SPEC, dataset, place=place, annotator=page))
    after = {a.question.id: a.number for a in store.answers()}
    assert len(after) == 12 and all(after[q] == number for q, number in before.items())
    other = tmp_path / "other"
    Store(other).add_annotators(["person1", "person2"])
    with people(other, by_clip):
        whole = outcome(train_lanes(SPEC, dataset, annotator=PageAnnotator(other, spec_of("Hopper-v4"))))
    assert all(np.array_equal(resumed[name], x) for name, x in whole.items())


def test_a_run_that_is_stopped_while_it_waits_ends_with_its_present_policy(dataset, folder, tmp_path):
    place, stop, store = CheckpointPlace(tmp_path / "checkpoint", 1e-9), Flag(), Store(folder)

    def choose(q) -> str:
        stop.value = len(store.answers()) >= 6
        return by_clip(q)

    with people(folder, choose, limit=7):
        page = PageAnnotator(folder, spec_of("Hopper-v4"))
        *_, done = train_lanes(SPEC, dataset, stop=stop, place=place, annotator=page)
    assert isinstance(done, Finished) and done.step < SPEC.steps
    states = sorted(int(p.stem) for p in place.folder.glob("*.state") if p.stem.isdigit())
    assert states[-1] == done.step  # the half iteration is not saved


def test_peoples_answers_train_as_those_of_a_function(dataset, folder):
    spec = spec_of("Hopper-v4")
    page = PageAnnotator(folder, spec)
    with people(folder, by_clip):
        asked = outcome(train_lanes(SPEC, dataset, annotator=page))
    from aihf_control.label.clips import Segment

    def same(first, second) -> bool:
        ids = [Segment(t, 0, SPEC.cfg.online.length).digest(spec) for t in (first, second)]
        return ids[0] > ids[1]

    direct = outcome(train_lanes(SPEC, dataset, annotator=FunctionAnnotator(same)))
    assert all(np.array_equal(asked[name], x) for name, x in direct.items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--wait", "0"], "--wait must be above 0 minutes"),
        (["--annotators", "0"], "--annotators must be at least 1"),
        (["--port", "99999", "--annotator", "page"], "--port must be from 0"),
    ],
)
def test_wrong_flags_are_one_line(dataset_folder, tmp_path, capsys, more, message):
    assert run.main(words("oaif", dataset_folder, tmp_path / "runs", *more)) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("config.json"))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_method_that_asks_nobody_is_refused(dataset_folder, tmp_path, capsys, dry):
    assert run.main(words("bc", dataset_folder, tmp_path / "runs", "--annotator", "page", *dry)) == 2
    assert "bc asks nobody while it trains; label its dataset before" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_several_votes_of_one_person_on_a_pair_are_refused(dataset_folder, tmp_path, capsys, dry):
    more = ["--annotator", "page", "--votes", "2", *dry]
    assert run.main(words("zpg", dataset_folder, tmp_path / "runs", *more)) == 2
    err = capsys.readouterr().err
    assert "zpg asks for 2 votes on each pair, but a person answers it once; give --votes 1" in err
    assert err.count("\n") == 1 and not (tmp_path / "runs").exists()


# --------------------------------------------------------------------------------------------------- the whole command


@contextlib.contextmanager
def running(arguments: list[str], log: Path):
    """Run `aihf run` with its messages in a file."""
    with log.open("w") as file:
        command = [sys.executable, "-m", "aihf_control.run", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(found, seconds: float = 240):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError("nothing came")


@pytest.mark.slow
def test_a_killed_run_resumes_with_all_answers(dataset_folder, tmp_path):
    """Answers come over the page; the run is killed by SIGKILL while it waits, and resumed on another port."""
    pytest.importorskip("av")
    from tests.label.visitor import Visitor

    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = words("oaif", dataset_folder, tmp_path, "--annotator", "page", "--port", "0", "--folder", str(folder))
    arguments += ["--pairs", "6"]

    def link(name: str = "person1") -> str | None:
        found = re.search(rf"{name}: (http\S+)", log.read_text())
        return found and found[1]

    with running(arguments, log) as process:
        visitor = Visitor(wait_for(link))
        wait_for(lambda: visitor.state()["questions"])
        assert visitor.state()["running"]
        for _ in range(3):
            question = wait_for(lambda: visitor.state()["questions"])[0]
            assert visitor.request("GET", f"/clip/{question['left']}")[2][4:8] == b"ftyp"
            assert visitor.answer(question["id"], "left") == 200
        wait_for(lambda: "waiting for" in log.read_text())
        os.killpg(process.pid, signal.SIGKILL)
    assert [a.choice for a in Store(folder / "labels").answers()].count("skip") == 0
    assert len(Store(folder / "labels").answers()) == 3 and (folder / "config.json").exists()
    log.write_text("")
    with running(["--resume", str(folder), "--port", "0"], log) as process:
        visitor = Visitor(wait_for(link))
        while process.poll() is None:
            with contextlib.suppress(OSError, json.JSONDecodeError):
                for question in visitor.state()["questions"]:
                    visitor.answer(question["id"], "right")
            time.sleep(0.05)
        assert process.returncode == 0, log.read_text()
    answers = Store(folder / "labels").answers()
    assert len(answers) == 12 and [a.number for a in answers[:3]] == [1, 2, 3]
    assert json.loads((folder / "summary.json").read_text())["interrupted"] is False
