"""Questions about the segments of a dataset: those chosen before, the next ones, and their clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.data.dataset import Dataset
from aihf_control.environments.gym import EnvSpec, spec_of
from aihf_control.label.clips import Segment, check_drawable, read_frames
from aihf_control.label.plan import Plan
from aihf_control.label.questions import Asked, choose_questions, segment_pool, shared_pairs
from aihf_control.label.schema import Question
from aihf_control.label.store import Store


def open_dataset(store: Store, folder: Path, plan: Plan, frames_file: Path | None) -> tuple[EnvSpec, bool, Chooser]:
    """Return the environment, whether its pictures have to be drawn, and the chooser of questions. Raises BadInput.

    Raises it, too, if the clips of earlier questions have another length than the plan's.
    """
    dataset = Dataset.load(folder)
    spec = spec_of(dataset.meta["env"], **dataset.meta["options"])
    pool = segment_pool(dataset, plan.clip)
    if other := {source["length"] for source in store.sources().values()} - {pool.length}:
        raise BadInput(
            f"{store.path} has clips of {min(other)} steps, not {pool.length}: the dataset's comparisons have changed; "
            f"move {store.folder} away, or label the dataset as it was"
        )
    if frames_file is None:
        check_drawable([dataset.pool[i] for i in pool.episodes])
    frames = read_frames(frames_file, dataset.pool) if frames_file else None
    return spec, frames is None, Chooser(store, plan, spec, dataset, pool, frames)


class Chooser:
    """Chooses the questions of all annotators about a dataset's segments, and finds the segments of its clips."""

    def __init__(self, store: Store, plan: Plan, spec: EnvSpec, dataset: Dataset, pool: Any, frames: Any):
        self.store, self.plan, self.spec, self.pool, self.frames = store, plan, spec, pool, frames
        self.episodes = dataset.pool
        earlier = [q for questions in read_asked(store).values() for q in questions]
        self.shared = shared_pairs(pool, plan, len(store.annotators()), earlier)
        self.seen: Any = None

    def segment(self, clip: str, source: Any) -> Segment:
        """Return the segment that the stored `source` names. Raises BadInput if the dataset does not have it."""
        episode, start, length = (source[name] for name in ("episode", "start", "length"))
        return Segment(self.episodes[episode], start, length, self.frames[episode] if self.frames else None)

    def choose(self) -> bool:
        """Store the next questions of each annotator who needs some; return whether there were any."""
        if self.seen == (seen := self.store.version()):
            return False
        self.seen, asked, found = seen, read_asked(self.store), False
        for number, annotator in enumerate(self.store.annotators()):
            own = asked.get(annotator, [])
            others = [q for other, questions in asked.items() if other != annotator for q in questions]
            chosen = choose_questions(self.pool, self.plan, number, own, others, self.shared)
            if not chosen:
                continue
            sources = {
                clip: {"episode": clip[0], "start": clip[1], "length": self.pool.length}
                for q in chosen
                for clip in (q.first, q.second)
            }
            ids = {clip: self.segment("", source).digest(self.spec) for clip, source in sources.items()}
            self.store.add_clips({ids[clip]: source for clip, source in sources.items()})
            self.store.add_questions(annotator, [q.draft(ids) for q in chosen])
            found = True
        return found


def read_asked(store: Store) -> dict[int, list[Asked]]:
    """Return the questions of each annotator about a dataset's segments.

    One without an answer that cannot be drawn counts as skipped.
    """
    sources, faulty = store.sources(), store.faulty_clips()
    choices = {answer.question.id: answer.choice for answer in store.answers()}

    def clip(name: str) -> tuple[int, int]:
        return sources[name]["episode"], sources[name]["start"]

    def asked(q: Question) -> Asked:
        choice = choices.get(q.id) or ("skip" if {q.first, q.second} & faulty else None)
        return Asked(clip(q.first), clip(q.second), q.kind, choice)

    found: dict[int, list[Asked]] = {}
    for q in store.questions():
        found.setdefault(q.annotator, []).append(asked(q))
    return found
