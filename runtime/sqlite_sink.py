"""Verdicts in a SQLite database."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from cada_edge.runtime.record import Record
from cada_edge.runtime.sink_base import Sink

__all__ = ["SqliteSink"]

_logger = logging.getLogger(__name__)


class SqliteSink(Sink[Record]):
    """A table ``verdicts`` in a database with a write-ahead log: it can be read while it is written.

    The log has the database's name and ``-wal``. Whoever moves the database alone, as log rotation does,
    leaves the log behind, and SQLite deletes it when a new database takes the name. So the log goes into the
    moved file first; where that cannot be, it is kept under another name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection: sqlite3.Connection | None = None
        self._log: tuple[Path, os.stat_result] | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Insert records in one transaction; see `Sink.write`."""
        if self._connection is None or self._is_gone():
            self.close()
            self._connection = self._open()
            self._remember()
        marks = ", ".join("?" * len(Record.columns()))
        try:
            with self._connection as transaction:
                transaction.executemany(
                    f"INSERT INTO verdicts ({', '.join(Record.columns())}) VALUES ({marks})",
                    [record.values() for record in records],
                )
        except sqlite3.Error:
            self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite follows links too: the log lies beside the file itself.
        real = self.path.resolve()
        log = real.with_name(f"{real.name}-wal")
        # The log is looked at first: another process that makes the database now fills that before its log.
        if _size(log) and not _size(real):
            # A process was killed after its database had been moved away.
            _keep(log)
        connection = sqlite3.connect(self.path, timeout=5.0, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # FULL: the log is on the disk when a transaction returns, which NORMAL leaves open.
            connection.execute("PRAGMA synchronous=FULL")
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS verdicts (id INTEGER PRIMARY KEY, time TEXT NOT NULL, "
                    "source TEXT NOT NULL, frame INTEGER NOT NULL, score REAL NOT NULL, "
                    "raw_score REAL NOT NULL, threshold REAL, anomalous INTEGER, dropped INTEGER NOT NULL, "
                    "model_sha256 TEXT NOT NULL, image TEXT)"
                )
                connection.execute("CREATE INDEX IF NOT EXISTS verdicts_time ON verdicts (time)")
            # There is none on a file system that lacks what a log needs.
            self._log = (log, log.stat()) if log.exists() else None
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the database; its write-ahead log goes into it, wherever it was moved to."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        with contextlib.closing(connection):
            if self._is_gone():
                self._part_from_log(connection)

    def _part_from_log(self, connection: sqlite3.Connection) -> None:
        """Bring the log into the database that was moved away, and clear the name for the next one's log."""
        try:
            # It goes through the open file, whatever that is called by now.
            busy, pages, copied = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            is_whole = pages == copied and not (busy and pages < 0)
        except sqlite3.Error as error:
            _logger.warning("The log of %s, which was moved away, cannot go into it: %s", self.path, error)
            is_whole = False
        if self._log is None:
            return
        log, opened = self._log
        # It was moved along, or is another database's by now.
        if not log.exists() or not os.path.samestat(opened, log.stat()):
            return
        if is_whole:
            _remove(log)
        else:
            # A reader that is in the middle of an older state holds it up.
            _keep(log)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove(log: Path) -> None:
    """Remove a log, and its index, which readers of the old database would share with the new one."""
    log.unlink(missing_ok=True)
    log.with_name(f"{log.name.removesuffix('-wal')}-shm").unlink(missing_ok=True)


def _keep(log: Path) -> None:
    """Give another name to a log that SQLite would delete, or take for that of another database."""
    names = (log.with_name(f"{log.name}-{number}") for number in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    log.rename(kept)
    _remove(log)
    _logger.warning(
        "%s holds verdicts of the database that was moved away from %s; wanted both together. Move it beside "
        "that database, under the database's name and -wal, and open the database there",
        kept,
        log.with_name(log.name.removesuffix("-wal")),
    )
