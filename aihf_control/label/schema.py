"""Tables of questions and answers, and their rows."""

from __future__ import annotations

from typing import Literal, NamedTuple

SCHEMA = 1
Side = Literal["first", "second"]
TABLES = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE annotators(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE sessions(hash TEXT PRIMARY KEY, annotator INTEGER REFERENCES annotators(id));
CREATE TABLE clips(id TEXT PRIMARY KEY, source TEXT NOT NULL);
CREATE TABLE faults(clip TEXT PRIMARY KEY REFERENCES clips(id), message TEXT NOT NULL);
CREATE TABLE questions(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    annotator INTEGER NOT NULL REFERENCES annotators(id),
    first TEXT NOT NULL REFERENCES clips(id),
    second TEXT NOT NULL REFERENCES clips(id),
    left TEXT NOT NULL CHECK (left IN ('first', 'second')),
    kind TEXT NOT NULL CHECK (kind IN ('new', 'shared', 'repeat', 'gold', 'run')),
    query TEXT NOT NULL,
    expected TEXT CHECK (expected IN ('first', 'second')),
    repeats INTEGER REFERENCES questions(id),
    key TEXT UNIQUE
);
CREATE TABLE answers(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    question INTEGER NOT NULL REFERENCES questions(id),
    choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie', 'skip', 'undo')),
    seconds REAL NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE batches(key TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE used(question INTEGER PRIMARY KEY REFERENCES questions(id), batch TEXT NOT NULL REFERENCES batches(key));
CREATE INDEX answers_of ON answers(question);
CREATE INDEX questions_of ON questions(annotator);
CREATE VIEW current AS SELECT * FROM answers a WHERE choice <> 'undo'
    AND NOT EXISTS (SELECT 1 FROM answers b WHERE b.question = a.question AND b.id > a.id);
"""
APPEND_ONLY = ("annotators", "clips", "questions", "answers", "batches", "used")


class Question(NamedTuple):
    """A pair of clips for one annotator, by the ids of the clips."""

    id: int
    annotator: int
    first: str
    second: str
    left: Side
    """The clip that is shown on the left."""
    kind: str
    """new, shared (asked of every annotator), repeat (swapped sides), gold (known answer), run (asked by a run)."""
    query: str
    """The rule that chose the pair."""
    expected: Side | None
    """The right answer of a gold question."""
    repeats: int | None
    """The question that a repeat asks again."""


class Draft(NamedTuple):
    """A question before it is stored. `repeats` is the place of another draft in the same list."""

    first: str
    second: str
    left: Side
    kind: str
    query: str
    expected: Side | None = None
    repeats: int | None = None
    key: str | None = None


class Answer(NamedTuple):
    """A question and the answer to it that counts."""

    question: Question
    choice: str
    seconds: float
    number: int
    """Number of the answer among all."""


FIELDS = ", ".join(f"q.{name}" for name in Question._fields)
UNANSWERED = """NOT EXISTS (SELECT 1 FROM current a WHERE a.question = q.id)
    AND NOT EXISTS (SELECT 1 FROM used u WHERE u.question = q.id)"""
FAULTY = "EXISTS (SELECT 1 FROM faults f WHERE f.clip IN (q.first, q.second))"
TO_ANSWER = f"{UNANSWERED} AND NOT {FAULTY}"
