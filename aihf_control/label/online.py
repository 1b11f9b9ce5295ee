"""People as the annotators of a running run: its questions, its waiting, and the page that shows them.

Every process of the run stores its questions in the same file and waits for the answers there. A question is known by
the contents of its clips, so a run that was killed and asks the same questions again finds the answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aihf_control.core.errors import BadInput
from aihf_control.core.files import write_arrays
from aihf_control.core.types import Trajectory
from aihf_control.data.arrays import read_npz
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.environments.watchdog import EnvTimeout
from aihf_control.label.clips import Segment
from aihf_control.label.hosts import LOOPBACK
from aihf_control.label.plan import SECONDS
from aihf_control.label.process import running
from aihf_control.label.questions import WEIGHTS
from aihf_control.label.schema import Draft
from aihf_control.label.server import Server, bind, check_installed, locked
from aihf_control.label.store import Store
from aihf_control.learning.annotators import Query, WaitingEnded

Array = np.ndarray
SEGMENTS = "segments"  # subfolder of the simulator states of segments
POLL = 0.3  # seconds between two looks for answers
REPORT = 1.0  # seconds between two looks whether the page is well, and the run waits


@dataclasses.dataclass(frozen=True)
class PageAnnotator:
    """Asks people on a page. It can be sent to the processes of a run, which all ask in the same folder."""

    folder: Path
    spec: EnvSpec
    minutes: float = math.inf
    """How long it waits for answers; then it returns those that there are."""
    ties = True
    watches = True

    def compare(self, query: Query) -> Array:
        """Store the questions, wait for the answers and return them; a pair without an answer counts as skipped.

        Raises WaitingEnded if the run is to pause or to stop before, and BadInput for segments that cannot be drawn.
        """
        store = Store(self.folder)
        try:
            questions = self._ask(store, query)
            return self._wait(store, questions, query.ended)
        finally:
            store.close()

    def _ask(self, store: Store, query: Query) -> list[int]:
        """Store the questions that are not there yet, in turn for each annotator; return the ids of all."""
        firsts, seconds = (self._save(store, played.segments, played.rewards.shape[1]) for played in query[:2])
        who, questions = list(store.annotators()), []
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            left = "first" if query.u[i, 0] < 0.5 else "second"
            draft = Draft(first, second, left, "run", "policy", key=f"{first} {second}")
            questions += store.add_questions(who[i % len(who)], [draft])
        return questions

    def _save(self, store: Store, segments: list[Trajectory], length: int) -> list[str]:
        """Write the simulator states of segments, each into a file named by its clip's id; return the ids."""
        clips = []
        for t in segments:
            if t.qpos is None or t.qvel is None:
                raise BadInput(
                    f"--annotator page: {self.spec.id} has no simulator states to draw its segments from; it needs one "
                    "of Gymnasium's MuJoCo tasks"
                )
            clip = Segment(t, 0, length).digest(self.spec)
            path = self.folder / SEGMENTS / f"{clip}.npz"
            if not path.exists():
                write_arrays(path, {"qpos": t.qpos, "qvel": t.qvel, "terminated": np.array(t.terminated)})
            clips.append(clip)
        store.add_clips({clip: {"length": length} for clip in clips})
        return clips

    def _wait(self, store: Store, questions: list[int], ended: Callable[[], bool]) -> Array:
        key = hashlib.sha256(json.dumps(questions).encode()).hexdigest()
        until = time.monotonic() + 60 * self.minutes
        while (answers := store.close_batch(key, questions, complete=time.monotonic() < until)) is None:
            if ended():
                raise WaitingEnded
            self._check_drawable(store)
            time.sleep(POLL)
        return np.array([WEIGHTS[answer or "skip"] for answer in answers], np.float32)

    @staticmethod
    def _check_drawable(store: Store) -> None:
        if faults := store.faults():
            raise BadInput(f"a question cannot be shown: {faults[0]}")


@dataclasses.dataclass(frozen=True)
class RunWork:
    """The background process's work for a run: only drawing, since the run itself asks."""

    spec: EnvSpec

    def open(self, store: Store) -> tuple[EnvSpec, bool, RunSegments]:
        spec = spec_of(self.spec.id, **self.spec.options)
        return spec, True, RunSegments(store.folder / SEGMENTS, spec)


class RunSegments:
    """The segments that a run has asked about."""

    def __init__(self, folder: Path, spec: EnvSpec):
        self.folder, self.spec = folder, spec

    def segment(self, clip: str, source: Any) -> Segment:
        """Read a segment. Raises BadInput if its file is damaged."""
        path = self.folder / f"{clip}.npz"
        arrays = read_npz(path)
        if not {"qpos", "qvel", "terminated"} <= arrays.keys() or len(arrays["qpos"]) != len(arrays["qvel"]):
            raise BadInput(f"{path} is damaged; remove it and resume the run")
        n = len(arrays["qpos"]) - 1
        obs, act = np.zeros((n + 1, self.spec.n_obs), np.float32), np.zeros((n, self.spec.n_act), np.float32)
        ending = bool(arrays["terminated"])
        episode = Trajectory(obs, act, np.zeros(n), ending, -1, "policy", arrays["qpos"], arrays["qvel"])
        return Segment(episode, 0, source["length"])

    def choose(self) -> bool:
        """Return False: the run asks."""
        return False


@contextlib.contextmanager
def page_of_run(
    folder: Path, spec: EnvSpec, people: int, port: int, minutes: float, step_timeout: float, failed: Callable[[], None]
) -> Iterator[PageAnnotator]:
    """Serve the page of a run during the block; yield the annotator that asks there. Raises BadInput.

    Prints the links, and when the run waits. `failed` is called if the page ends before the block.
    """
    check_installed()
    from aihf_control.label.app import Page

    with bind(LOOPBACK[0], port) as listening, locked(folder), contextlib.closing(Store(folder)) as store:
        store.add_annotators([f"person{i + 1}" for i in range(people)])
        store.clear_faults()
        with running(folder, RunWork(spec)) as background:
            background.wait_until_ready(step_timeout)
            page = Page(spec.id, "Which one does better?")

            def watch() -> None:
                server.check()
                background.check(step_timeout)

            with Server(store, page, listening, LOOPBACK) as server, _reporting(store, watch, failed):
                for name, link in server.links.annotators.items():
                    print(f"{name}: {link}", file=sys.stderr)
                print(f"results: {server.links.results}", file=sys.stderr, flush=True)
                yield PageAnnotator(folder, spec, minutes)


@contextlib.contextmanager
def _reporting(store: Store, watch: Callable[[], None], failed: Callable[[], None]) -> Iterator[None]:
    """Print from a thread when the run begins to wait for answers, and when `watch` raises: the page has failed."""
    done = threading.Event()

    def report() -> None:
        waiting = False
        while not done.wait(REPORT):
            try:
                watch()
                n = store.count_open()
            except (BadInput, EnvTimeout, RuntimeError) as e:
                print(f"the page ended: {e}", file=sys.stderr, flush=True)
                failed()
                return
            if n and not waiting:
                minutes = math.ceil(n * SECONDS / 60)
                print(f"waiting for {n} answer{'s' * (n > 1)}, about {minutes} min", file=sys.stderr, flush=True)
            waiting = bool(n)

    thread = threading.Thread(target=report, daemon=True, name="page report")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
