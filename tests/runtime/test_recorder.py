from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.record import Record
from cada_edge.runtime.recorder import Recorder, RecorderStats
from cada_edge.runtime.sink_base import Sink
from cada_edge.runtime.sinks import open_sink
from cada_edge.runtime.stream_events import StatusEvent

pytestmark = pytest.mark.alone


def record(frame: int) -> Record:
    return Record("2026-11-24T03:00:00.000000Z", "cam", frame, 1.0, 0.5, 1.0, False, 0, "ab", None)


class SinkDouble(Sink[Record]):
    """Keeps records in memory, and fails when told to; a double, for failures at a wanted moment."""

    def __init__(self) -> None:
        super().__init__(Path("double.db"))
        self.frames: list[int] = []
        self.error: Exception | None = None
        self.closed = 0

    def write(self, records: Sequence[Record]) -> None:
        if self.error is not None:
            raise self.error
        self.frames += [each.frame for each in records]

    def close(self) -> None:
        self.closed += 1


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_records_are_written_in_order_soon_and_without_waiting(tmp_path: Path) -> None:
    recorder = Recorder(open_sink(tmp_path / "verdicts.db"))
    started = time.monotonic()
    for frame in range(2000):
        recorder.put(record(frame))
    assert time.monotonic() - started < 1
    wait_until(lambda: recorder.stats == RecorderStats(2000, 0, 0, False))
    assert recorder.close() == RecorderStats(2000, 0, 0, False)
    connection = sqlite3.connect(tmp_path / "verdicts.db")
    assert [row[0] for row in connection.execute("SELECT frame FROM verdicts ORDER BY id")] == list(
        range(2000)
    )
    connection.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError("No space left on device"),
        sqlite3.OperationalError("locked"),
        sqlite3.DatabaseError("malformed"),
    ],
)
def test_a_sink_that_fails_is_tried_again_and_nothing_is_lost(error: Exception) -> None:
    sink, events = SinkDouble(), list[StatusEvent]()
    recorder = Recorder(sink, on_status=events.append, interval_s=0.01, first_wait_s=0.01)
    recorder.put(record(0))
    wait_until(lambda: sink.frames == [0])
    sink.error = error
    for frame in range(1, 50):
        recorder.put(record(frame))
    wait_until(lambda: recorder.stats.failing)
    stats = recorder.stats
    assert stats.written + stats.waiting + stats.lost == 50
    sink.error = None
    wait_until(lambda: recorder.stats == RecorderStats(50, 0, 0, False))
    assert sink.frames == list(range(50))
    assert [event.kind for event in events] == ["sink_failed", "sink_recovered"]
    assert str(error) in events[0].message
    assert events[0].source_id == "double.db"
    recorder.close()
    recorder.close()
    assert sink.closed == 1


def test_beyond_the_capacity_the_oldest_are_given_up_and_counted() -> None:
    sink, events = SinkDouble(), list[StatusEvent]()
    sink.error = OSError("full")
    # Gathered for longer than putting takes: what is in hand would not be given up, but newer ones.
    recorder = Recorder(sink, on_status=events.append, interval_s=0.5, first_wait_s=0.05, capacity=10)
    for frame in range(35):
        recorder.put(record(frame))
    wait_until(lambda: recorder.stats.failing)
    assert recorder.stats == RecorderStats(0, 10, 25, True)
    sink.error = None
    wait_until(lambda: not recorder.stats.failing)
    assert recorder.close() == RecorderStats(10, 0, 25, False)
    assert sink.frames == list(range(25, 35))
    assert events[-1].data == {"lost": 25}


def test_close_tries_to_the_end_of_its_time_and_says_what_was_not_written() -> None:
    sink, events = SinkDouble(), list[StatusEvent]()
    sink.error = OSError("full")
    recorder = Recorder(sink, on_status=events.append, interval_s=0.01, first_wait_s=0.01)
    for frame in range(4):
        recorder.put(record(frame))
    wait_until(lambda: recorder.stats.failing)
    assert recorder.close(0.3) == RecorderStats(0, 0, 4, True)
    assert events[-1].message == "4 records were not written to double.db"
    assert events[-1].data == {"lost": 4}
    recorder.put(record(4))
    assert recorder.stats == RecorderStats(0, 0, 5, True)


@pytest.mark.parametrize("error", [OSError("Input/output error."), sqlite3.OperationalError("locked")])
def test_a_sink_that_cannot_be_closed_is_told(error: Exception) -> None:
    sink, events = SinkDouble(), list[StatusEvent]()

    def refuse() -> None:
        raise error

    sink.close = refuse  # type: ignore[method-assign]
    recorder = Recorder(sink, on_status=events.append, interval_s=0.0)
    recorder.put(record(0))
    assert recorder.close() == RecorderStats(1, 0, 0, False)
    assert [event.kind for event in events] == ["sink_failed"]
    reason = str(error).rstrip(".")
    assert events[0].message == f"double.db could not be closed: {reason}. Look whether its end is there"


@pytest.mark.parametrize("name", ["capacity", "batch", "attempts"])
def test_a_capacity_of_nothing_is_refused(name: str) -> None:
    values: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"A {name} of 0 records came"):
        Recorder(SinkDouble(), **values)


class HangingSink(SinkDouble):
    """Hangs in its first write, as a disk does, until it is let go; then it fails or not."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def write(self, records: Sequence[Record]) -> None:
        self.entered.set()
        self.leave.wait(30)
        super().write(records)


@pytest.mark.parametrize("error", [None, OSError("full")])
def test_a_write_that_ends_after_close_is_counted_once(error: Exception | None) -> None:
    sink = HangingSink()
    sink.error = error
    recorder = Recorder(sink, interval_s=0.0, batch=2)
    for frame in range(5):
        recorder.put(record(frame))
    assert sink.entered.wait(30)
    lost = recorder.close(0.0)
    assert (lost.written, lost.waiting, lost.lost) == (0, 0, 5)
    sink.leave.set()
    wait_until(lambda: sink.closed == 1)
    stats = recorder.stats
    assert (stats.written, stats.waiting, stats.lost) == (0, 0, 5)


def test_one_write_has_no_more_than_a_batch() -> None:
    sink = SinkDouble()
    sizes: list[int] = []
    write = sink.write

    def count(records: Sequence[Record]) -> None:
        sizes.append(len(records))
        write(records)

    sink.write = count  # type: ignore[method-assign]
    recorder = Recorder(sink, interval_s=0.05, batch=3)
    for frame in range(20):
        recorder.put(record(frame))
    assert recorder.close() == RecorderStats(20, 0, 0, False)
    assert sink.frames == list(range(20))
    assert max(sizes) <= 3


class PickySink(SinkDouble):
    """Never takes frame 1, for a reason of the frame's or the disk's own."""

    tries = 0

    def write(self, records: Sequence[Record]) -> None:
        if self.error is not None and any(each.frame == 1 for each in records):
            self.tries += 1
            raise OutputError("wrapped, as our own errors are") from self.error
        self.frames += [each.frame for each in records]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENAMETOOLONG, "name too long"), ValueError("65,535"), OSError("OpenCV cannot")]
)
def test_what_can_never_be_written_is_given_up_and_the_rest_written(error: Exception) -> None:
    sink, events = PickySink(), list[StatusEvent]()
    sink.error = error
    recorder = Recorder(sink, on_status=events.append, interval_s=0.0, first_wait_s=0.01, batch=1, attempts=3)
    for frame in range(4):
        recorder.put(record(frame))
    wait_until(lambda: recorder.stats == RecorderStats(3, 0, 1, False))
    assert sink.frames == [0, 2, 3]
    assert sink.tries == 3
    assert [event.kind for event in events] == ["sink_failed", "sink_failed", "sink_recovered"]
    assert "cannot take what came, which is given up: wrapped" in events[1].message
    assert events[1].data == {"lost": 1}
    recorder.close()


BAD = {7, 8, 40}


def test_only_the_records_that_a_database_can_never_take_are_given_up(tmp_path: Path) -> None:
    """Their numbers are beyond SQLite's 64 bits."""
    events = list[StatusEvent]()
    recorder = Recorder(open_sink(tmp_path / "verdicts.db"), on_status=events.append, interval_s=0.05)
    for frame in range(100):
        recorder.put(record(2**63 + frame if frame in BAD else frame))
    wait_until(lambda: recorder.stats == RecorderStats(97, 0, 3, False))
    recorder.put(record(2**63))  # alone
    recorder.put(record(100))
    assert recorder.close() == RecorderStats(98, 0, 4, False)
    connection = sqlite3.connect(tmp_path / "verdicts.db")
    stored = [row[0] for row in connection.execute("SELECT frame FROM verdicts ORDER BY id")]
    connection.close()
    assert stored == [frame for frame in range(101) if frame not in BAD]
    assert [event.kind for event in events[:2]] == ["sink_failed", "sink_recovered"], "one event for many"
    assert "cannot take what came, which is given up: Python int too large to convert" in events[0].message
    assert f"this was Record(time='2026-11-24T03:00:00.000000Z', source='cam', frame={2**63 + 7}" in (
        events[0].message
    )
    assert events[0].data == {"lost": 1}


@pytest.mark.parametrize("count", [1, 7, 500])
def test_records_that_are_all_impossible_hold_up_nothing(count: int) -> None:
    sink = SinkDouble()
    sink.error = OverflowError("too large")
    recorder = Recorder(sink, interval_s=0.05, first_wait_s=0.01)
    started = time.monotonic()
    for frame in range(count):
        recorder.put(record(frame))
    wait_until(lambda: recorder.stats == RecorderStats(0, 0, count, True))
    assert time.monotonic() - started < 5
    sink.error = None
    recorder.put(record(count))
    assert recorder.close() == RecorderStats(1, 0, count, False)


def test_a_failure_of_what_came_that_passes_costs_nothing() -> None:
    sink = SinkDouble()
    write, tries = sink.write, []

    def fail_once(records: Sequence[Record]) -> None:
        tries.append(len(records))
        if len(tries) == 1:
            raise ValueError("own sink")
        write(records)

    sink.write = fail_once  # type: ignore[method-assign]
    recorder = Recorder(sink, interval_s=0.05, first_wait_s=0.01)
    for frame in range(10):
        recorder.put(record(frame))
    assert recorder.close() == RecorderStats(10, 0, 0, False)
    assert sink.frames == list(range(10))


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS", "EDQUOT", "ENOENT", "EACCES"])
def test_what_a_disk_refuses_waits_for_it(name: str) -> None:
    sink = PickySink()
    sink.error = OSError(getattr(errno, name), "refused")
    recorder = Recorder(sink, interval_s=0.0, first_wait_s=0.001, batch=1, attempts=3)
    for frame in range(4):
        recorder.put(record(frame))
    wait_until(lambda: sink.tries > 6)
    assert recorder.stats.lost == 0
    sink.error = None
    wait_until(lambda: recorder.stats == RecorderStats(4, 0, 0, False))
    assert sink.frames == [0, 1, 2, 3]
    recorder.close()


# Forks a writer for each line of stdin, "FIRST FOLDER", and prints its number: one start of the interpreter
# serves a hundred. A writer puts a record every 2 ms and tells of each when it has been put.
WRITERS = """
import os, signal, sys, time
from cada_edge.runtime.record import Record
from cada_edge.runtime.recorder import Recorder
from cada_edge.runtime.sinks import open_sink

def write(first, folder):
    recorders = [Recorder(open_sink(f"{folder}/verdicts.{suffix}")) for suffix in ("db", "jsonl", "csv")]
    told = os.open(f"{folder}/put.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for frame in range(first, first + 10**6):
        record = Record("2026-11-24T03:00:00.000000Z", "cam", frame, 1.0, 0.5, 1.0, False, 0, "ab", None)
        for recorder in recorders:
            recorder.put(record)
        os.write(told, f"{frame} {time.monotonic()}\\n".encode())
        time.sleep(0.002)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    first, folder = line.split()
    child = os.fork()
    if child == 0:
        write(int(first), folder)
    sys.stdout.write(f"{child}\\n")
    sys.stdout.flush()
"""


class KillLane:
    """Three files that one writer after another appends to, each killed in the middle of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.next = 0
        self.due: set[int] = set()
        self.proven = 0

    def note_the_dead(self, killed_s: float) -> None:
        """Take over what the writer had put, and when."""
        text = (self.folder / "put.txt").read_text()
        lines = [line.split() for line in text[: text.rindex("\n") + 1].splitlines()]
        older = {int(frame) for frame, at_s in lines if killed_s - float(at_s) > 1.0}
        self.next = int(lines[-1][0]) + 1
        self.due |= older
        self.proven += bool(older)

    def check(self) -> None:
        """Open the files as their reader would: whole, and with everything that is due."""
        connection = sqlite3.connect(self.folder / "verdicts.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = [row[0] for row in connection.execute("SELECT frame FROM verdicts ORDER BY id")]
        connection.close()
        assert stored == sorted(set(stored)), "a record is twice in it, or out of order"
        assert self.due <= set(stored)
        for suffix in ("jsonl", "csv"):
            path = self.folder / f"verdicts.{suffix}"
            lines = path.read_text().splitlines(keepends=True)
            whole = [
                line for line in lines if line.endswith("\n")
            ]  # the last may be torn: the next run cuts it
            assert len(lines) - len(whole) <= 1
            if suffix == "jsonl":
                frames = [json.loads(line)["frame"] for line in whole]
            else:
                frames = [int(row["frame"]) for row in csv.DictReader(whole)]
            assert frames == sorted(set(frames))
            assert self.due <= set(frames)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_that_is_older_than_a_second(tmp_path: Path) -> None:
    """Twenty lanes of five kills, at random moments from 1.05 to 1.55 s after the first record."""
    lanes = [KillLane(tmp_path / str(lane)) for lane in range(20)]
    rng = random.Random(0)
    command = [sys.executable, "-c", WRITERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for _ in range(5):
            dues: list[tuple[float, int, KillLane]] = []
            numbers: list[int] = []
            for lane in lanes:
                (lane.folder / "put.txt").unlink(missing_ok=True)
                writers.stdin.write(f"{lane.next} {lane.folder}\n")
                writers.stdin.flush()
                numbers.append(int(writers.stdout.readline()))
            for lane, number in zip(lanes, numbers, strict=True):
                # From the first record on, so that a slow start does not count.
                wait_until(lambda path=lane.folder / "put.txt": path.exists() and path.stat().st_size > 0)
                first_s = float((lane.folder / "put.txt").read_text().split()[1])
                dues.append((first_s + rng.uniform(1.05, 1.55), number, lane))
            for due, number, lane in sorted(dues, key=lambda each: each[0]):
                time.sleep(max(0.0, due - time.monotonic()))
                os.kill(number, signal.SIGKILL)
                killed_s = time.monotonic()
                wait_until(lambda number=number: not is_alive(number))
                lane.note_the_dead(killed_s)
                lane.check()
        writers.stdin.close()
    assert [lane.proven for lane in lanes] == [5] * 20, "a kill came too early to prove anything"
    for lane in lanes:
        for suffix in ("db", "jsonl", "csv"):
            open_sink(lane.folder / f"verdicts.{suffix}").close()  # a torn line is cut off
        lane.check()


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
