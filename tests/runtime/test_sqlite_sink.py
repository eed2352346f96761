"""Databases that are moved away while they are written: every verdict stays, once."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cada_edge.runtime.record import Record
from cada_edge.runtime.sqlite_sink import SqliteSink


def record(frame: int) -> Record:
    return Record("2026-11-24T03:00:00.000000Z", "cam", frame, 1.0, 0.5, 1.0, False, 0, "ab", None)


def frames_in(path: Path) -> list[int]:
    """Read a database as its user would, with the log that lies beside it."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT frame FROM verdicts ORDER BY id")]
    finally:
        connection.close()


def write(sink: SqliteSink, frames: range) -> None:
    for frame in frames:
        sink.write([record(frame)])


def test_a_database_that_is_moved_without_its_log_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    sink = SqliteSink(path)
    for number in range(3):
        write(sink, range(10 * number, 10 * number + 10))
        path.rename(tmp_path / f"old-{number}.db")
    write(sink, range(30, 35))
    sink.close()
    assert [frames_in(tmp_path / f"old-{number}.db") for number in range(3)] == [
        list(range(10 * number, 10 * number + 10)) for number in range(3)
    ]
    assert frames_in(path) == list(range(30, 35))
    # The last of them was closed without a move, and no log of the others is left.
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "old-0.db",
        "old-1.db",
        "old-2.db",
        "verdicts.db",
    ]


def test_a_database_that_is_moved_before_it_is_closed_is_whole(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "verdicts.db")
    write(sink, range(10))
    (tmp_path / "verdicts.db").rename(tmp_path / "old.db")
    sink.close()
    assert frames_in(tmp_path / "old.db") == list(range(10))
    assert [each.name for each in tmp_path.iterdir()] == ["old.db"]


def test_an_empty_file_in_its_place_changes_nothing(tmp_path: Path) -> None:
    """As logrotate's `create` leaves it."""
    path = tmp_path / "verdicts.db"
    sink = SqliteSink(path)
    write(sink, range(10))
    path.rename(tmp_path / "old.db")
    path.touch()
    write(sink, range(10, 20))
    sink.close()
    assert frames_in(tmp_path / "old.db") == list(range(10))
    assert frames_in(path) == list(range(10, 20))


def test_a_link_to_a_database_that_is_moved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, path = tmp_path / "disk" / "real.db", tmp_path / "verdicts.db"
    path.symlink_to(real)
    sink = SqliteSink(path)
    write(sink, range(10))
    real.rename(tmp_path / "old.db")
    write(sink, range(10, 20))
    sink.close()
    assert frames_in(tmp_path / "old.db") == list(range(10))
    assert frames_in(real) == list(range(10, 20))
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["real.db"]


def test_a_reader_that_holds_up_the_move_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "verdicts.db"
    sink = SqliteSink(path)
    write(sink, range(3))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM verdicts").fetchone() == (3,)
    write(sink, range(3, 10))
    assert sink._connection is not None
    sink._connection.execute("PRAGMA busy_timeout=1").close()
    path.rename(tmp_path / "old.db")
    with caplog.at_level(logging.WARNING):
        write(sink, range(10, 20))
    kept = tmp_path / "verdicts.db-wal-1"
    assert f"{kept} holds verdicts of the database that was moved away from {path}" in caplog.text
    assert reader.execute("SELECT count(*) FROM verdicts").fetchone() == (3,), "it does not see the new one"
    reader.close()
    sink.close()
    kept.rename(tmp_path / "old.db-wal")
    assert frames_in(tmp_path / "old.db") == list(range(10))
    assert frames_in(path) == list(range(10, 20))


_KILLED = """
import os, signal, sys
from pathlib import Path
from cada_edge.runtime.record import Record
from cada_edge.runtime.sqlite_sink import SqliteSink

path = Path(sys.argv[1])
sink = SqliteSink(path)
for frame in range(10):
    sink.write([Record("2026-11-24T03:00:00.000000Z", "cam", frame, 1.0, 0.5, 1.0, False, 0, "ab", None)])
path.rename(path.with_name("old.db"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_log_of_a_killed_process_whose_database_was_moved_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "verdicts.db"
    subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False, timeout=300)
    (tmp_path / "verdicts.db-wal-1").write_bytes(b"of the last time")
    sink = SqliteSink(path)
    with caplog.at_level(logging.WARNING):
        write(sink, range(10, 20))
    sink.close()
    kept = tmp_path / "verdicts.db-wal-2"
    assert f"{kept} holds verdicts of the database that was moved away from {path}" in caplog.text
    kept.rename(tmp_path / "old.db-wal")
    assert frames_in(tmp_path / "old.db") == list(range(10))
    assert frames_in(path) == list(range(10, 20))
    assert (tmp_path / "verdicts.db-wal-1").read_bytes() == b"of the last time"
