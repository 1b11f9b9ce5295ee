"""Questions, answers and annotators of a folder, in one SQLite file to which is only appended.

An answer is on the disk when `Store.answer` returns. The last row of a question counts; an undone answer is a row, too.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aihf_control.label.database import Database
from aihf_control.label.schema import FAULTY, FIELDS, TO_ANSWER, UNANSWERED, Answer, Draft, Question, Side

FILE = "answers.sqlite"


class NotOpen(Exception):
    """The question has an answer already, or is not one of this annotator's."""


class Store:
    """Questions, answers and annotators of one folder. Several threads and processes may use it at a time."""

    def __init__(self, folder: Path):
        """Open the file in this folder, made if needed. Raises BadInput if it is damaged or of another version."""
        self.folder, self.path = folder, folder / FILE
        self.db = Database(self.path)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that reads the answers of one moment, whatever other processes write meanwhile."""
        return self.db.reading()

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    # --------------------------------------------------------------------------------------------- facts and annotators

    def fact(self, name: str, value: Any = None) -> Any:
        """Return a stored fact. If there is none yet, `value` is stored and returned."""
        with self.db.writing() as db:
            if value is not None:
                db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_fact(self, name: str, value: Any) -> None:
        """Store a fact, in place of an earlier one of this name."""
        with self.db.writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def add_annotators(self, names: Sequence[str]) -> None:
        """Add annotators of these names; those that exist are kept."""
        with self.db.writing() as db:
            db.executemany("INSERT OR IGNORE INTO annotators(name) VALUES (?)", [(name,) for name in names])

    def annotators(self) -> dict[int, str]:
        """Return the annotators' names by id."""
        return dict(self.db.read("SELECT id, name FROM annotators ORDER BY id"))  # type: ignore[arg-type]

    def add_session(self, digest: str, annotator: int | None) -> None:
        """Store the hash of a cookie. Without an annotator it is the owner's, who sees the results."""
        with self.db.writing() as db:
            db.execute("INSERT INTO sessions VALUES (?, ?)", (digest, annotator))

    def session(self, digest: str) -> tuple[int | None] | None:
        """Return the annotator of a cookie's hash in a tuple (None in it: the owner), or None for an unknown one."""
        rows = self.db.read("SELECT annotator FROM sessions WHERE hash = ?", digest)
        return rows[0] if rows else None  # type: ignore[return-value]

    # ------------------------------------------------------------------------------------------------------------ clips

    def add_clips(self, sources: dict[str, Any]) -> None:
        """Store where the frames of clips come from, by their ids."""
        with self.db.writing() as db:
            rows = [(clip, json.dumps(source)) for clip, source in sources.items()]
            db.executemany("INSERT OR IGNORE INTO clips VALUES (?, ?)", rows)

    def source(self, clip: str) -> Any:
        """Return where the frames of a clip come from, or None for an unknown one."""
        rows = self.db.read("SELECT source FROM clips WHERE id = ?", clip)
        return json.loads(rows[0][0]) if rows else None

    def sources(self) -> dict[str, Any]:
        """Return the sources of all clips by their ids."""
        return {clip: json.loads(source) for clip, source in self.db.read("SELECT id, source FROM clips")}

    def add_fault(self, clip: str, message: str) -> None:
        """Store that a clip cannot be drawn; its questions are not asked."""
        with self.db.writing() as db:
            db.execute("INSERT OR REPLACE INTO faults VALUES (?, ?)", (clip, message))

    def clear_faults(self) -> None:
        """Forget which clips could not be drawn, so that they are tried again."""
        with self.db.writing() as db:
            db.execute("DELETE FROM faults")

    def faults(self) -> list[str]:
        """Return the messages of the clips that cannot be drawn, and whose questions have no answer."""
        sql = f"""SELECT DISTINCT message FROM faults f WHERE EXISTS
            (SELECT 1 FROM questions q WHERE f.clip IN (q.first, q.second) AND {UNANSWERED})"""
        return [message for (message,) in self.db.read(sql)]

    def has_clip(self, clip: str, annotator: int | None) -> bool:
        """Return whether a clip belongs to a question of an annotator; None: to any question."""
        sql = "SELECT 1 FROM questions WHERE ? IN (first, second) AND annotator = COALESCE(?, annotator) LIMIT 1"
        return bool(self.db.read(sql, clip, annotator))

    def version(self) -> tuple[Any, ...]:
        """Return a value that differs after every answer and every fault."""
        return self.db.read("SELECT (SELECT MAX(id) FROM answers), (SELECT COUNT(*) FROM faults)")[0]

    def faulty_clips(self) -> set[str]:
        """Return the clips that cannot be drawn."""
        return {clip for (clip,) in self.db.read("SELECT clip FROM faults")}

    def next_clips(self, limit: int = 10_000) -> list[str]:
        """Return the clips of open questions in the order in which they will be shown, over all annotators."""
        rows = self.db.read(
            f"""SELECT first, second FROM
            (SELECT q.*, ROW_NUMBER() OVER (PARTITION BY annotator ORDER BY id) AS place FROM questions q
            WHERE {TO_ANSWER}) ORDER BY place, id LIMIT ?""",
            limit,
        )
        return list(dict.fromkeys(clip for row in rows for clip in row))

    def answered_clips(self) -> list[str]:
        """Return the clips of answered questions, the last first, which can be looked at again."""
        sql = f"""SELECT q.first, q.second FROM questions q JOIN current a ON a.question = q.id
            WHERE NOT {FAULTY} ORDER BY a.id DESC"""
        return list(dict.fromkeys(clip for row in self.db.read(sql) for clip in row))

    # -------------------------------------------------------------------------------------------- questions and answers

    def add_questions(self, annotator: int, drafts: Sequence[Draft]) -> list[int]:
        """Store questions in the order in which they are asked; return their ids.

        A draft whose `key` is stored already is not stored again: its id is that of the stored one.
        """
        ids: list[int] = []
        with self.db.writing() as db:
            for d in drafts:
                known = d.key and db.execute("SELECT id FROM questions WHERE key = ?", (d.key,)).fetchone()
                if known:
                    ids.append(known[0])
                    continue
                repeats = None if d.repeats is None else ids[d.repeats]
                row = (annotator, *d[:6], repeats, d.key)
                cursor = db.execute(
                    "INSERT INTO questions(annotator, first, second, left, kind, query, expected, repeats, key) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
                ids.append(int(cursor.lastrowid or 0))
        return ids

    def questions(self, annotator: int | None = None) -> list[Question]:
        """Return the questions of an annotator, or of all, in order."""
        which = "" if annotator is None else "WHERE q.annotator = ?"
        values = () if annotator is None else (annotator,)
        rows = self.db.read(f"SELECT {FIELDS} FROM questions q {which} ORDER BY q.id", *values)
        return [Question(*row) for row in rows]

    def open_questions(self, annotator: int, limit: int = -1) -> list[Question]:
        """Return the questions that an annotator has not answered, in order; an undone one is open again."""
        sql = f"SELECT {FIELDS} FROM questions q WHERE q.annotator = ? AND {TO_ANSWER} ORDER BY q.id LIMIT ?"
        return [Question(*row) for row in self.db.read(sql, annotator, limit)]

    def count_open(self) -> int:
        """Return how many questions nobody has answered."""
        return self.db.read(f"SELECT COUNT(*) FROM questions q WHERE {TO_ANSWER}")[0][0]

    def left_of(self, question: int) -> Side | None:
        """Return which clip of a question is shown on the left, or None for an unknown question."""
        rows = self.db.read("SELECT left FROM questions WHERE id = ?", question)
        return rows[0][0] if rows else None

    def count_pairs(self, annotator: int) -> int:
        """Return how many pairs an annotator was asked and did not skip, without repeats and gold questions."""
        sql = f"""SELECT COUNT(*) FROM questions q WHERE q.annotator = ? AND q.kind IN ('new', 'shared') AND
            ({TO_ANSWER} OR q.id IN (SELECT question FROM current WHERE choice <> 'skip'))"""
        return self.db.read(sql, annotator)[0][0]

    def answer(self, annotator: int, question: int, choice: str, seconds: float) -> None:
        """Store an answer; it is on the disk when this returns. Raises NotOpen if the question is not open."""
        with self.db.writing() as db:
            sql = f"SELECT 1 FROM questions q WHERE q.id = ? AND q.annotator = ? AND {TO_ANSWER}"
            if not db.execute(sql, (question, annotator)).fetchone():
                raise NotOpen(question)
            self._append(db, question, choice, seconds)

    def undo(self, annotator: int) -> int | None:
        """Take back the annotator's last answer that counts; return its question.

        Returns None if there is none, or if a run has used it.
        """
        with self.db.writing() as db:
            last = db.execute(
                "SELECT a.id, a.question FROM current a JOIN questions q ON q.id = a.question "
                "WHERE q.annotator = ? ORDER BY a.id DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if not last or db.execute("SELECT 1 FROM used WHERE question = ?", (last[1],)).fetchone():
                return None
            self._append(db, last[1], "undo", 0.0)
            return last[1]

    @staticmethod
    def _append(db: sqlite3.Connection, question: int, choice: str, seconds: float) -> None:
        db.execute(
            "INSERT INTO answers(question, choice, seconds, at) VALUES (?, ?, ?, ?)",
            (question, choice, seconds, time.time()),
        )

    def answers(self, annotator: int | None = None) -> list[Answer]:
        """Return the answers that count, of an annotator or of all, in the order of the questions."""
        which = "" if annotator is None else "WHERE q.annotator = ?"
        values = () if annotator is None else (annotator,)
        sql = f"""SELECT {FIELDS}, a.choice, a.seconds, a.id FROM questions q JOIN current a ON a.question = q.id
            {which} ORDER BY q.id"""
        n = len(Question._fields)
        return [Answer(Question(*row[:n]), *row[n:]) for row in self.db.read(sql, *values)]

    # ---------------------------------------------------------------------------------------------- questions of a run

    def close_batch(self, key: str, questions: Sequence[int], complete: bool) -> list[str | None] | None:
        """Return the answers to a run's questions, None in it for one without; the same ones in every later call.

        Returns None if some are missing and they have to be `complete`. Afterwards they cannot be undone.
        """
        with self.db.writing() as db:
            known = db.execute("SELECT last FROM batches WHERE key = ?", (key,)).fetchone()
            marks = ", ".join("?" * len(questions))
            last = known[0] if known else (db.execute("SELECT MAX(id) FROM answers").fetchone()[0] or 0)
            rows = db.execute(
                f"SELECT question, choice FROM answers WHERE id IN (SELECT MAX(id) FROM answers WHERE id <= ? AND "
                f"question IN ({marks}) GROUP BY question) AND choice <> 'undo'",
                (last, *questions),
            ).fetchall()
            given: dict[int, str] = dict(rows)
            if not known and complete and not given.keys() >= set(questions):
                return None
            if not known:
                db.execute("INSERT INTO batches VALUES (?, ?)", (key, last))
                db.executemany("INSERT OR IGNORE INTO used VALUES (?, ?)", [(q, key) for q in questions])
        return [given.get(question) for question in questions]
