from __future__ import annotations

import csv
import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.record import Record, record_of
from cada_edge.runtime.sinks import JsonLinesSink, open_sink

SUFFIXES = ["jsonl", "csv", "db"]


def record(frame: int, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "time": "2026-11-24T03:00:00.250000Z",
        "source": 'left, "Förderband"\n2',
        "frame": frame,
        "score": 1.25,
        "raw_score": 0.5,
        "threshold": None,
        "anomalous": None,
        "dropped": 3,
        "model_sha256": "ab" * 32,
        "image": None,
    }
    return Record(**{**values, **changes})


def read_back(path: Path) -> list[Record]:
    """Read a record file with the standard library, as its user would."""
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        return [Record(**json.loads(line)) for line in lines]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            Record(
                time=row["time"],
                source=row["source"],
                frame=int(row["frame"]),
                score=float(row["score"]),
                raw_score=float(row["raw_score"]),
                threshold=float(row["threshold"]) if row["threshold"] else None,
                anomalous=bool(int(row["anomalous"])) if row["anomalous"] else None,
                dropped=int(row["dropped"]),
                model_sha256=row["model_sha256"],
                image=row["image"] or None,
            )
            for row in rows
        ]
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            f"SELECT {', '.join(Record.columns())} FROM verdicts ORDER BY id"
        ).fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()
    rows_by_name = [dict(zip(Record.columns(), row, strict=True)) for row in found]
    for row in rows_by_name:
        row["anomalous"] = None if row["anomalous"] is None else bool(row["anomalous"])
    return [Record(**row) for row in rows_by_name]


def test_a_record_says_what_a_detection_says() -> None:
    detection = Detection(
        score=1.5,
        raw_score=0.4,
        threshold=1.0,
        frame_index=7,
        source_id="belt",
        captured_at_s=1_700_000_000.25,
        dropped_before=2,
    )
    assert record_of(detection, "ff", image="rejects/7.jpg") == Record(
        time="2023-11-14T22:13:20.250000Z",
        source="belt",
        frame=7,
        score=1.5,
        raw_score=0.4,
        threshold=1.0,
        anomalous=True,
        dropped=2,
        model_sha256="ff",
        image="rejects/7.jpg",
    )


def test_a_path_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    detection = Detection(score=1.0, raw_score=0.5, source_id="b\udcff")
    found = record_of(detection, "ff", image="c\udcfe.jpg")
    assert (found.source, found.image) == ("b\\udcff", "c\\udcfe.jpg")
    sink = open_sink(tmp_path / "verdicts.jsonl")
    sink.write([found])
    sink.close()
    assert read_back(tmp_path / "verdicts.jsonl") == [found]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back_and_appended_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"verdicts ü.{suffix}"
    wanted = [record(0), record(1, threshold=1.0, anomalous=True, image="a b.jpg"), record(2, score=-1e-9)]
    sink = open_sink(path)
    sink.write(wanted[:2])
    assert read_back(path) == wanted[:2]
    sink.close()
    sink.close()
    sink.write(wanted[2:])
    sink.close()
    again = open_sink(path)
    again.write([record(3, threshold=1.0, anomalous=False)])
    again.close()
    assert read_back(path) == [*wanted, record(3, threshold=1.0, anomalous=False)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("torn", [b'{"time": "2026', b"x" * 200_000])
def test_an_unfinished_last_line_is_cut_off(
    tmp_path: Path, suffix: str, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    sink.close()
    with path.open("ab") as file:
        file.write(torn)
    sink = open_sink(path)
    sink.write([record(1)])
    sink.close()
    assert read_back(path) == [record(0), record(1)]
    assert f"{len(torn)} bytes of an unfinished record are cut off" in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_first_write_that_was_killed_anywhere_is_begun_anew(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0, score=1e-9, threshold=1.5, anomalous=True)])
    sink.close()
    data = path.read_bytes()
    for size in range(len(data)):
        for torn in (data[:size], data[:size] + bytes(7)):
            path.write_bytes(torn)
            sink = open_sink(path)
            sink.write([record(1)])
            sink.close()
            assert read_back(path) == [record(1)]


def test_a_csv_record_that_was_torn_within_a_name_of_several_lines_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    sink = open_sink(path)
    sink.write([record(0)])
    first = path.stat().st_size
    sink.write([record(1, source='a "pipeline"\n! of\n"three" lines, 1')])
    sink.close()
    data = path.read_bytes()
    for size in range(first, len(data)):
        path.write_bytes(data[:size])
        sink = open_sink(path)
        sink.write([record(2)])
        sink.close()
        assert read_back(path) == [record(0), record(2)]


FOREIGN = [
    b"all in one line, without a newline",
    b"a note\nand one more\n",
    b"a note\nand a torn one",
    b'{"time": "2026-11-24", "value": 1}',
    b'{"time": "2026-11-24", "value": 1}\n',
    b"[1, 2]\n",
    b"time,value\n2026-11-24,1\n",
    b"time,value",
    b"\n",
    b"\xff\xfe",
    b"\0\0not empty\0",
    b"x" * 100_000,
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_somebody_else_is_refused_and_stays_as_it_is(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"notes.{suffix}"
    path.write_bytes(content)
    wanted = (
        rf"The record .*notes\.{suffix} \({len(content)} bytes\) begins with what is no verdict; wanted an "
        "empty file, or one that an earlier run has written. Name another file, or move this one away"
    )
    with pytest.raises(OutputError, match=wanted):
        open_sink(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_record_that_an_editor_has_saved_is_appended_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    sink.close()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    size = path.stat().st_size
    sink = open_sink(path)
    sink.write([record(1)])
    sink.close()
    assert path.stat().st_size > size


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_full_disk_leaves_whole_records(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is a double here: it takes half of a write and is full then."""
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    real = os.write
    room = [40]

    def full(file: int, data: Any) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = min(room[0], len(data))
        room[0] -= part
        return real(file, data[:part])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        sink.write([record(1)])
    assert read_back(path) == [record(0)]
    monkeypatch.setattr(os, "write", real)
    sink.write([record(1)])
    assert read_back(path) == [record(0), record(1)]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_file_that_somebody_cuts_never_grows_by_a_failure(
    tmp_path: Path, suffix: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    left = path.stat().st_size * kept
    sink.write([record(1), record(2)])

    def cut_and_fail(file: int, data: Any) -> int:
        os.truncate(path, left)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", cut_and_fail)
        with pytest.raises(OSError, match="No space left"):
            sink.write([record(3)])
    assert path.stat().st_size == left
    sink.write([record(3)])
    sink.close()
    assert read_back(path) == [record(0), record(3)][1 - kept :]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_that_is_cut_while_it_is_written_goes_on_with_a_whole_record(
    tmp_path: Path, suffix: str
) -> None:
    """As copytruncate leaves it, and worse: in the middle of a record."""
    path = tmp_path / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    whole = path.stat().st_size
    sink.write([record(1)])
    os.truncate(path, whole + 5)
    sink.write([record(2)])
    assert read_back(path) == [record(0), record(2)]
    os.truncate(path, 0)
    sink.write([record(3)])
    sink.close()
    assert read_back(path) == [record(3)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path, suffix: str) -> None:
    path, old = tmp_path / f"verdicts.{suffix}", tmp_path / "old" / f"verdicts.{suffix}"
    sink = open_sink(path)
    sink.write([record(0)])
    old.parent.mkdir()
    for file in tmp_path.glob("verdicts.*"):  # a database's log belongs to it
        file.rename(old.with_name(file.name))
    sink.write([record(1)])
    sink.close()
    assert read_back(old) == [record(0)]
    assert read_back(path) == [record(1)]


def test_a_database_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    sink = open_sink(path)
    reader = sqlite3.connect(path)
    for frame in range(5):
        sink.write([record(frame)])
        assert reader.execute("SELECT count(*), max(frame) FROM verdicts").fetchone() == (frame + 1, frame)
    reader.execute("BEGIN IMMEDIATE").close()
    reader.rollback()
    reader.close()
    sink.close()
    assert not path.with_name("verdicts.db-wal").exists()


def test_a_locked_database_takes_no_half_of_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    sink = open_sink(path)
    sink.write([record(0)])
    bad = [record(1), record(2, source=None)]
    with pytest.raises(sqlite3.IntegrityError):
        sink.write(bad)
    sink.write([record(1)])
    sink.close()
    assert read_back(path) == [record(0), record(1)]


def test_refusals(tmp_path: Path, put_image: Callable[..., Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"verdicts.txt has the extension '.txt'; wanted one of .jsonl, .csv"
    ):
        open_sink(tmp_path / "verdicts.txt")
    (tmp_path / "verdicts.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"The record .*verdicts.jsonl cannot be written: .*Is a directory"):
        open_sink(tmp_path / "verdicts.jsonl")
    put_image(tmp_path / "a.png").rename(tmp_path / "a.db")
    with pytest.raises(OutputError, match="file is not a database"):
        open_sink(tmp_path / "a.db")
    with pytest.raises(ValueError, match="Out of range float"):
        JsonLinesSink(tmp_path / "nan.jsonl").write([record(0, score=float("nan"))])
