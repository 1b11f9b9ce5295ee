"""Results of the answers so far: agreement, bias, speed, and where annotators disagree."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np

from aihf_control.label.agreement import Share, krippendorff_alpha, pairwise_agreement, share
from aihf_control.label.schema import Answer
from aihf_control.label.store import Store

VALUE = {"first": 1.0, "tie": 0.5, "second": 0.0}
SHOWN = 200  # last answers that can be looked at again


@dataclasses.dataclass(frozen=True)
class Person:
    """The answers of one annotator in numbers."""

    name: str
    answered: int
    """Answers that count, without skipped questions."""
    skipped: int
    ties: int
    per_minute: float
    """60 / the median seconds of an answer."""
    left: Share
    """Answers "left" among those for one side; 50 % without a side bias."""
    self_agreement: Share
    """Repeats, with sides swapped, that were answered like the first time."""
    gold: Share
    """Certain questions that were answered right."""


@dataclasses.dataclass(frozen=True)
class Look:
    """A pair to look at again: its clips as they were shown, and what was said."""

    left: str
    right: str
    said: str
    kind: str
    number: int


@dataclasses.dataclass(frozen=True)
class Results:
    """The content of the results page."""

    people: list[Person]
    alpha: float
    """Krippendorff's alpha over the shared pairs; NaN if there are none."""
    shared: int
    """Shared pairs with at least two answers."""
    agreement: list[tuple[str, str, Share]]
    """How often each two annotators agree on the shared pairs."""
    disagreements: list[Look]
    answers: list[Look]
    faults: list[str]


def summarise_answers(store: Store) -> Results:
    """Compute the results of the answers so far."""
    names, answers = store.annotators(), store.answers()
    own = {who: [a for a in answers if a.question.annotator == who] for who in names}
    people = [_summarise_person(name, own[who]) for who, name in names.items()]
    units, ratings = shared_ratings(answers, list(names))
    pairs = itertools.combinations(range(len(names)), 2)
    words = list(names.values())
    agreement = [(words[i], words[j], pairwise_agreement(ratings[i].tolist(), ratings[j].tolist())) for i, j in pairs]
    rated = int(((~np.isnan(ratings)).sum(0) > 1).sum())
    alpha = krippendorff_alpha(ratings) if rated else math.nan
    last = sorted(answers, key=lambda a: -a.number)[:SHOWN]
    looks = [_look(a, f"{names[a.question.annotator]}: {_said(a)}") for a in last]
    disagreements = _find_disagreements(units, ratings, words)
    return Results(people, alpha, rated, agreement, disagreements, looks, store.faults())


def _summarise_person(name: str, answers: Sequence[Answer]) -> Person:
    given = [a for a in answers if a.choice != "skip"]
    sided = [a for a in given if a.choice != "tie"]
    by_question = {a.question.id: a.choice for a in given}
    again = [a for a in given if a.question.repeats in by_question]
    gold = [a for a in given if a.question.expected]
    return Person(
        name,
        len(given),
        len(answers) - len(given),
        sum(a.choice == "tie" for a in given),
        60 / max(0.1, statistics.median(a.seconds for a in given)) if given else 0.0,
        share(sum(a.choice == a.question.left for a in sided), len(sided)),
        share(sum(a.choice == by_question[a.question.repeats or 0] for a in again), len(again)),
        share(sum(a.choice == a.question.expected for a in gold), len(gold)),
    )


def shared_ratings(answers: Sequence[Answer], annotators: Sequence[int]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the shared pairs by clips, and their ratings (annotators, pairs): 1 first, 0 second, NaN not answered.

    For an annotator who began alone, a pair that others share was a new one.
    """
    pairs = [a for a in answers if a.question.kind in ("new", "shared") and a.choice != "skip"]
    units = list(dict.fromkeys((a.question.first, a.question.second) for a in pairs if a.question.kind == "shared"))
    shared = [a for a in pairs if (a.question.first, a.question.second) in set(units)]
    ratings = np.full((len(annotators), len(units)), np.nan)
    for a in shared:
        row, column = annotators.index(a.question.annotator), units.index((a.question.first, a.question.second))
        ratings[row, column] = VALUE[a.choice]
    return units, ratings


def _find_disagreements(units: Sequence[tuple[str, str]], ratings: np.ndarray, names: Sequence[str]) -> list[Look]:
    looks = []
    word = {1.0: "left", 0.5: "equal", 0.0: "right"}
    for i, (first, second) in enumerate(units):
        said = {names[k]: word[x] for k, x in enumerate(ratings[:, i].tolist()) if not math.isnan(x)}
        if len(set(said.values())) > 1:
            text = ", ".join(f"{name}: {x}" for name, x in said.items())
            looks.append(Look(first, second, text, "shared", i + 1))
    return looks


def _look(answer: Answer, said: str) -> Look:
    q = answer.question
    left, right = (q.first, q.second) if q.left == "first" else (q.second, q.first)
    return Look(left, right, said, q.kind, q.id)


def _said(answer: Answer) -> str:
    if answer.choice in ("tie", "skip"):
        return {"tie": "equal", "skip": "skipped"}[answer.choice]
    return "left" if answer.choice == answer.question.left else "right"
