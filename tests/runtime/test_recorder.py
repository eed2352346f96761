from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import ConfigError
from cada_edge.runtime.record import Record
from cada_edge.runtime.recorder import Recorder, RecorderStats
from cada_edge.runtime.sink_base import Sink
from cada_edge.runtime.sinks import open_sink
from cada_edge.runtime.stream_events import StatusEvent


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
    "error", [OSError("No space left on device"), sqlite3.OperationalError("locked"), ValueError("own sink")]
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
    recorder = Recorder(sink, on_status=events.append, interval_s=0.01, first_wait_s=0.05, capacity=10)
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


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="A capacity of 0 records came"):
        Recorder(SinkDouble(), capacity=0)


# Writes one record a millisecond until it is killed, and tells of each when it has been put.
WRITER = """
import sys, time
from cada_edge.runtime.record import Record
from cada_edge.runtime.recorder import Recorder
from cada_edge.runtime.sinks import open_sink
first = int(sys.argv[1])
recorders = [Recorder(open_sink(path)) for path in sys.argv[2:]]
for frame in range(first, first + 10**6):
    record = Record("2026-11-24T03:00:00.000000Z", "cam", frame, 1.0, 0.5, 1.0, False, 0, "ab", None)
    for recorder in recorders:
        recorder.put(record)
    sys.stdout.write(f"{frame} {time.monotonic()}\\n")
    sys.stdout.flush()
    time.sleep(0.001)
"""


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_that_is_older_than_a_second(tmp_path: Path) -> None:
    """Ten lanes of ten kills each, all on the same three files of the lane."""
    lanes = [tmp_path / str(lane) for lane in range(10)]
    nexts = [0] * len(lanes)
    put: list[list[int]] = [[] for _ in lanes]
    rng_ms = [(137 * kill) % 900 for kill in range(100)]
    for round_number in range(10):
        processes = []
        for lane, folder in enumerate(lanes):
            folder.mkdir(exist_ok=True)
            files = [str(folder / f"verdicts.{suffix}") for suffix in ("db", "jsonl", "csv")]
            output = (folder / f"put{round_number}.txt").open("w+")
            command = [sys.executable, "-c", WRITER, str(nexts[lane]), *files]
            processes.append((subprocess.Popen(command, stdout=output), output))
        for lane, (process, output) in enumerate(processes):
            # From the first record on, so that slow starts do not count.
            wait_until(lambda output=output: os.fstat(output.fileno()).st_size > 0)
            time.sleep(1.1 / len(lanes) + rng_ms[10 * round_number + lane] / 10_000)
            if lane == 0:
                time.sleep(1.1)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_s = time.monotonic()
            output.seek(0)
            lines = [line.split() for line in output.read().splitlines(keepends=True) if line.endswith("\n")]
            output.close()
            nexts[lane] = int(lines[-1][0]) + 1
            put[lane] += [int(frame) for frame, at_s in lines if killed_s - float(at_s) > 1.0]
    assert all(put)
    for lane, folder in enumerate(lanes):
        connection = sqlite3.connect(folder / "verdicts.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = {row[0] for row in connection.execute("SELECT frame FROM verdicts")}
        connection.close()
        assert set(put[lane]) <= stored
        for suffix, at in (("jsonl", None), ("csv", 2)):
            sink = open_sink(folder / f"verdicts.{suffix}")  # cuts a torn line off
            sink.close()
            text = (folder / f"verdicts.{suffix}").read_text()
            if at is None:
                import json

                frames = {json.loads(line)["frame"] for line in text.splitlines()}
            else:
                frames = {int(line.split(",")[at]) for line in text.splitlines()[1:]}
            assert set(put[lane]) <= frames
