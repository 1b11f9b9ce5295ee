"""The SQLite file of a folder: its set-up, transactions, and the errors of a disk.

What a transaction wrote is on the disk when it ends (write-ahead log, synchronised at every commit). A process that is
killed loses nothing of it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aihf_control.core.errors import BadInput
from aihf_control.label.schema import APPEND_ONLY, SCHEMA, TABLES

BUSY = 30.0  # seconds that a writer waits for another one


def cannot_write(path: Path, reason: object) -> BadInput:
    """Return the error for a write that failed."""
    return BadInput(f"cannot write {path}: {reason}; check its permissions and the free space of its disk")


class Database:
    """A connection to the file. Several threads may use it, and several processes the file."""

    def __init__(self, path: Path):
        """Open the file, made if needed. Raises BadInput if it is damaged or of another version."""
        self.path, self._lock = path, threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise cannot_write(path.parent, e.strerror) from e
        try:
            self.connection = sqlite3.connect(path, timeout=BUSY, check_same_thread=False, isolation_level=None)
            for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self.connection.execute(f"PRAGMA {setting}")
            if (found := self.connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            self._set_up()
        except sqlite3.Error as e:
            raise BadInput(f"cannot use {path}: {e}; it has to be intact, and on a local disk") from e

    def _set_up(self) -> None:
        with self.writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise BadInput(f"{self.path} has schema {version}, this version reads {SCHEMA}; use the other version")
            if version == 0:
                _create_tables(db)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction: all of it is on the disk afterwards, or nothing."""
        db = self.connection
        with self._lock:
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:  # some errors have ended it already
                        db.execute("ROLLBACK")
                    raise
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # an error of this package
                raise
            except sqlite3.Error as e:  # a full disk, or another process that does not end its writing
                raise cannot_write(self.path, e) from e

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Run the block on the rows of one moment, whatever other processes write meanwhile."""
        with self._lock:
            self.read("BEGIN")
            try:
                yield
            finally:
                self.read("ROLLBACK")

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock:
            try:
                return self.connection.execute(sql, values).fetchall()
            except sqlite3.ProgrammingError:  # an error of this package
                raise
            except sqlite3.Error as e:
                raise BadInput(f"cannot read {self.path}: {e}; it has to be intact, and on a local disk") from e

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self.connection.close()


def _create_tables(db: sqlite3.Connection) -> None:
    for statement in TABLES.split(";\n"):
        db.execute(statement)
    for table in APPEND_ONLY:
        for event in ("UPDATE", "DELETE"):
            db.execute(
                f"CREATE TRIGGER {table}_{event} BEFORE {event} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'this table is only appended to'); END"
            )
    db.execute(f"PRAGMA user_version = {SCHEMA}")
