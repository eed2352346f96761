"""Verdicts in a SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from cada_edge.runtime.record import Record
from cada_edge.runtime.sink_base import Sink

__all__ = ["SqliteSink"]


class SqliteSink(Sink[Record]):
    """A table ``verdicts`` in a database with a write-ahead log: it can be read while it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection: sqlite3.Connection | None = None

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
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the database; its write-ahead log goes into it."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
