"""Storage of answers: the last one counts, nothing is ever changed, and a kill loses nothing that was acknowledged."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from aihf_control.core.errors import BadInput
from aihf_control.label.schema import APPEND_ONLY, UNANSWERED, Draft
from aihf_control.label.store import FILE, NotOpen, Store
from tests.helpers import ROOT
from tests.label.conftest import add_clips, add_plain_questions, clip_id

WRITER = """
import sys
from pathlib import Path
from aihf_control.label.store import Store
store = Store(Path(sys.argv[1]))
choices = ("first", "second", "tie", "skip")
while questions := store.open_questions(1, 1):
    q = questions[0].id
    store.answer(1, q, choices[q % 4], q / 8)
    print(q, flush=True)  # the page says so only now
"""


def test_the_last_answer_of_a_question_counts_and_earlier_ones_stay(store):
    ids = add_plain_questions(store, 1, 3)
    store.answer(1, ids[0], "first", 1.5)
    store.answer(1, ids[1], "tie", 2.0)
    assert [q.id for q in store.open_questions(1)] == ids[2:]
    assert store.undo(1) == ids[1] and store.undo(1) == ids[0] and store.undo(1) is None
    assert [q.id for q in store.open_questions(1)] == ids
    store.answer(1, ids[0], "second", 1.0)
    assert [(a.question.id, a.choice, a.seconds) for a in store.answers()] == [(ids[0], "second", 1.0)]
    kept = [choice for (choice,) in store.db.read("SELECT choice FROM answers ORDER BY id")]
    assert kept == ["first", "tie", "undo", "undo", "second"]


def test_only_open_questions_of_an_annotator_are_answered(store):
    mine, theirs = add_plain_questions(store, 1, 1)[0], add_plain_questions(store, 2, 1, first=10)[0]
    store.answer(1, mine, "first", 1.0)
    for annotator, question in ((1, mine), (1, theirs), (2, mine), (1, 99)):
        with pytest.raises(NotOpen):
            store.answer(annotator, question, "second", 1.0)
    assert [a.choice for a in store.answers()] == ["first"]
    assert store.undo(2) is None


def test_an_unknown_choice_is_refused_by_the_database_and_the_transaction_ends(store):
    (question,) = add_plain_questions(store, 1, 1)
    with pytest.raises(sqlite3.IntegrityError):
        store.answer(1, question, "better", 1.0)
    store.answer(1, question, "first", 1.0)
    assert len(store.answers()) == 1


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_rows_cannot_be_changed_or_removed(store, table):
    (question,) = add_plain_questions(store, 1, 1)
    store.answer(1, question, "first", 1.0)
    store.close_batch("b", [question], complete=True)
    other = sqlite3.connect(store.path)
    column = other.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()[0]
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
        with pytest.raises(sqlite3.IntegrityError, match="only appended"):
            other.execute(statement)
    other.close()


def test_a_repeat_names_its_question_and_a_known_key_is_not_stored_twice(store):
    add_clips(store, range(2))
    drafts = [
        Draft(clip_id(0), clip_id(1), "first", "new", "uniform", key="a"),
        Draft(clip_id(0), clip_id(1), "second", "repeat", "uniform", repeats=0),
    ]
    first, again = store.add_questions(1, drafts)
    assert [q.repeats for q in store.questions(1)] == [None, first]
    assert store.add_questions(1, drafts[:1]) == [first] and len(store.questions()) == 2 and again == first + 1


def test_a_question_whose_clip_cannot_be_drawn_is_not_asked(store):
    ids = add_plain_questions(store, 1, 2)
    store.add_fault(clip_id(1), "broken")
    assert [q.id for q in store.open_questions(1)] == ids[1:] and store.next_clips() == [clip_id(2), clip_id(3)]
    assert store.count_pairs(1) == 1 and store.faults() == ["broken"]
    store.clear_faults()
    assert store.count_pairs(1) == 2


def test_a_closed_batch_keeps_its_answers(store):
    ids = add_plain_questions(store, 1, 3)
    store.answer(1, ids[0], "first", 1.0)
    assert store.close_batch("run", ids, complete=True) is None
    store.answer(1, ids[1], "tie", 1.0)
    assert store.close_batch("run", ids, complete=False) == ["first", "tie", None]
    assert store.undo(1) is None and store.open_questions(1) == []
    assert store.close_batch("run", ids, complete=True) == ["first", "tie", None]


def test_a_clip_of_an_answered_question_that_cannot_be_drawn_is_no_fault_of_the_open_ones(store):
    ids = add_plain_questions(store, 1, 3)
    for question in ids[:2]:
        store.answer(1, question, "first", 1.0)
    assert store.answered_clips() == [clip_id(n) for n in (2, 3, 0, 1)]
    store.add_fault(clip_id(0), "broken")
    assert store.faults() == [] and store.answered_clips() == [clip_id(2), clip_id(3)]
    assert len(store.answers()) == 2
    store.add_fault(clip_id(4), "broken, too")
    assert store.faults() == ["broken, too"]


def test_no_query_of_the_page_reads_all_answers(store):
    """A page of many annotators replies as fast as one of few: an index finds the answers to a question."""
    for condition in (UNANSWERED, "EXISTS (SELECT 1 FROM current a WHERE a.question = q.id)"):
        plan = store.db.read(f"EXPLAIN QUERY PLAN SELECT * FROM questions q WHERE q.annotator = 1 AND {condition}")
        steps = " ".join(step[-1] for step in plan)
        assert "questions_of" in steps and "answers_of" in steps and "SCAN" not in steps


def test_clips_are_rendered_in_the_order_in_which_they_are_shown(store):
    add_plain_questions(store, 1, 2)
    add_plain_questions(store, 2, 2, first=10)
    assert store.next_clips() == [clip_id(n) for n in (0, 1, 10, 11, 2, 3, 12, 13)]


def test_threads_and_processes_may_write_at_once(store):
    ids = [add_plain_questions(store, who, 20, first=100 * who) for who in (1, 2)]
    other = Store(store.folder)  # as another process would open it

    def answer(which: Store, who: int) -> None:
        for question in ids[who - 1]:
            which.answer(who, question, "first", 1.0)

    threads = [threading.Thread(target=answer, args=pair) for pair in ((store, 1), (other, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.answers()) == 40


@pytest.mark.parametrize("damage", [b"no database, but as long as the header of one" * 9, b""])
def test_a_damaged_file_is_refused_and_an_empty_one_is_new(tmp_path, damage):
    (tmp_path / FILE).write_bytes(damage)
    if damage:
        with pytest.raises(BadInput, match="cannot use"):
            Store(tmp_path)
        assert (tmp_path / FILE).read_bytes() == damage
    else:
        assert Store(tmp_path).answers() == []


class Broken:
    """A connection to a file that was damaged after it was opened."""

    in_transaction = False

    def execute(self, *_):
        raise sqlite3.DatabaseError("database disk image is malformed")


def test_a_file_that_is_damaged_while_it_is_open_is_one_line(store, monkeypatch):
    (question,) = add_plain_questions(store, 1, 1)
    monkeypatch.setattr(store.db, "connection", Broken())
    with pytest.raises(BadInput, match=r"^cannot read .*answers.sqlite: database disk image is malformed; .*intact"):
        store.answers()
    with pytest.raises(BadInput, match=r"^cannot write .*answers.sqlite: .* malformed; check its permissions"):
        store.answer(1, question, "first", 1.0)


def test_an_error_that_ends_the_transaction_by_itself_keeps_its_message(store):
    with pytest.raises(BadInput, match="disk is full"), store.db.writing() as db:
        db.execute("ROLLBACK")  # as SQLite does when the disk is full
        raise sqlite3.OperationalError("disk is full")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*file/labels: .*check its permissions"):
        Store(tmp_path / "file" / "labels")


def test_a_file_of_another_version_is_refused(store):
    store.db.connection.execute("PRAGMA user_version = 7")
    with pytest.raises(BadInput, match="schema 7, this version reads 1"):
        Store(store.folder)


@pytest.mark.slow
def test_no_kill_loses_an_acknowledged_answer(tmp_path):
    """50 writers are killed at random moments; whatever they had acknowledged is there, and nothing else is."""
    store = Store(tmp_path)
    store.add_annotators(["ann"])
    add_plain_questions(store, 1, 20_000)
    rng, acknowledged, survived = random.Random(0), 0, 0
    for _ in range(50):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert writer.stdout
        seen = [writer.stdout.readline()]
        time.sleep(0.05 * rng.random())
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.read().splitlines()
        writer.wait()
        whole = [int(line) for line in seen if line.strip().isdigit()]
        acknowledged = max(whole)
        given = {a.question.id: a for a in Store(tmp_path).answers()}
        assert given.keys() >= set(range(1, acknowledged + 1)), "an acknowledged answer is lost"
        assert len(given) <= acknowledged + 1, "an answer came from nowhere"
        choices = ("first", "second", "tie", "skip")
        assert all(a.choice == choices[q % 4] and a.seconds == q / 8 for q, a in given.items())
        survived += 1
    assert survived == 50 and acknowledged > 50
