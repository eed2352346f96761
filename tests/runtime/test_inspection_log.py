"""What is kept of an inspection: rows that name their pictures, and disks that fail while the line runs."""

from __future__ import annotations

import csv
import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge import Detection, Detector, Frame, InspectionLog
from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.stream_events import StatusEvent


def frame(index: int, source: str = "cam") -> Frame:
    image = np.random.default_rng(index).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    return Frame(image, index, source, 1_795_000_000.0 + index, float(index))


def detection(of: Frame, *, score: float) -> Detection:
    return Detection(
        score=score,
        raw_score=score,
        threshold=1.0,
        frame_index=of.index,
        source_id=of.source_id,
        captured_at_s=of.captured_at_s,
    )


@pytest.fixture
def detector(tiny_model: Path) -> Detector:
    return Detector(tiny_model)


def put(log: InspectionLog, count: int, *, source: str = "cam") -> None:
    """Put frames of which every third is anomalous, no faster than they are written."""
    for index in range(count):
        of = frame(index, source)
        log.put(detection(of, score=2.0 if index % 3 == 0 else 0.5), of)
        deadline = time.monotonic() + 30
        while any(kept.waiting for kept in log.stats.values()) and time.monotonic() < deadline:
            time.sleep(0.001)


def rows(path: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(
        "SELECT source, frame, anomalous, model_sha256, image FROM verdicts ORDER BY id"
    )
    try:
        return found.fetchall()
    finally:
        connection.close()


def test_each_row_names_the_picture_that_is_there(detector: Detector, tmp_path: Path) -> None:
    with InspectionLog(
        detector,
        records=[tmp_path / "line.db", tmp_path / "line.csv", tmp_path / "line.jsonl"],
        rejects=tmp_path / "rejects",
        video=tmp_path / "line.avi",
    ) as log:
        put(log, 7)
    found = rows(tmp_path / "line.db")
    assert [row[:3] for row in found] == [("cam", index, int(index % 3 == 0)) for index in range(7)]
    assert {row[3] for row in found} == {detector.manifest.model_sha256}
    named = [Path(row[4]) for row in found if row[4] is not None]
    assert sorted(named) == sorted((tmp_path / "rejects").iterdir())
    assert len(named) == 3
    with (tmp_path / "line.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [row[4] or "" for row in found]
    written = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [row["image"] for row in written] == [row[4] for row in found]
    capture = cv2.VideoCapture(str(tmp_path / "line.avi"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 7
    capture.release()
    assert {name: kept.written for name, kept in log.stats.items()} == {
        str(tmp_path / "line.db"): 7,
        str(tmp_path / "line.csv"): 7,
        str(tmp_path / "line.jsonl"): 7,
        str(tmp_path / "rejects"): 3,
        str(tmp_path / "line.avi"): 7,
    }


def test_several_sources_keep_their_pictures_apart(detector: Detector, tmp_path: Path) -> None:
    with InspectionLog(
        detector, images=tmp_path / "all", video=tmp_path / "line.mkv", per_source=True
    ) as log:
        put(log, 2, source="rtsp://left/1")
        put(log, 3, source="rtsp://right/1")
    assert len(list((tmp_path / "all" / "rtsp_left_1").iterdir())) == 2
    assert len(list((tmp_path / "all" / "rtsp_right_1").iterdir())) == 3
    assert sorted(path.name for path in tmp_path.glob("*.mkv")) == [
        "line_rtsp_left_1.mkv",
        "line_rtsp_right_1.mkv",
    ]


def test_names_that_only_differ_in_what_a_file_name_lacks_are_kept_apart(
    detector: Detector, tmp_path: Path
) -> None:
    long = "x" * 70
    with InspectionLog(detector, images=tmp_path / "all", per_source=True) as log:
        for source in ("belt/1", "belt 1", f"a{long}", f"b{long}", "belt/1"):
            put(log, 1, source=source)
    found = sorted(folder.name for folder in (tmp_path / "all").iterdir() if any(folder.iterdir()))
    assert found == ["belt_1", "belt_1-2", "x" * 60, "x" * 60 + "-2"]


NAMES = [
    # One source of each name keeps it.
    (["left/cam.avi", "right/belt.avi"], ["000000_cam.jpg", "000000_belt.jpg"]),
    (
        ["left/cam.avi", "right/cam.avi", "cam.mkv"],
        ["000000_cam.jpg", "000000-2_cam.jpg", "000000-3_cam.jpg"],
    ),
    # A name that ends like a number of ours.
    (["cam.avi", "cam-2.avi", "b/cam.avi"], ["000000_cam.jpg", "000000_cam-2.jpg", "000000-2_cam.jpg"]),
]


@pytest.mark.parametrize(("sources", "names"), NAMES)
def test_sources_whose_files_are_called_alike_share_no_image(
    detector: Detector, tmp_path: Path, sources: list[str], names: list[str]
) -> None:
    with InspectionLog(detector, records=[tmp_path / "line.db"], images=tmp_path / "all") as log:
        for source in sources:
            of = dataclasses.replace(frame(0, source), path=Path(source))
            log.put(detection(of, score=0.5), of)
    assert [row[0] for row in rows(tmp_path / "line.db")] == sources
    assert [row[4] for row in rows(tmp_path / "line.db")] == [str(tmp_path / "all" / name) for name in names]
    assert {path.name for path in (tmp_path / "all").iterdir()} == set(names)


def test_folders_of_files_that_are_called_alike_share_no_image(detector: Detector, tmp_path: Path) -> None:
    with InspectionLog(detector, images=tmp_path / "all") as log:
        for path in ("left/1.png", "right/1.png", "right/2.png", "left/2.png", "1.avi"):
            source = str(Path(path).parent) if path.endswith("png") else path
            of = dataclasses.replace(frame(0, source), path=Path(path))
            log.put(detection(of, score=0.5), of)
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        *("000000_1.jpg", "000000_2.jpg", "000000-2_1.jpg", "000000-2_2.jpg", "000000-3_1.jpg")
    }


def test_frames_of_one_moment_share_no_image(detector: Detector, tmp_path: Path) -> None:
    """As cameras that are triggered together give them, with names that differ in a slash alone."""
    with InspectionLog(detector, images=tmp_path / "all", rejects=tmp_path / "rejects") as log:
        for source in ("belt/1", "belt 1", "rtsp://cam"):
            of = frame(0, source)
            log.put(detection(of, score=2.0), of)
    moment = "20261118T110640.000000Z"
    names = {f"{moment}_000000_belt_1", f"{moment}_000000-2_belt_1", f"{moment}_000000_rtsp_cam"}
    assert {path.name for path in (tmp_path / "all").iterdir()} == {f"{name}.jpg" for name in names}
    assert {path.name for path in (tmp_path / "rejects").iterdir()} == {
        f"{name}.reject.jpg" for name in names
    }


def test_pictures_that_find_no_room_are_told_and_their_rows_name_none(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.runtime import picture_sinks

    def slow_draw(image: Any, found: Detection) -> Any:
        time.sleep(0.05)  # a disk or a processor that is slower than the line
        return image

    monkeypatch.setattr(picture_sinks, "draw", slow_draw)
    events: list[StatusEvent] = []
    log = InspectionLog(
        detector, records=[tmp_path / "line.jsonl"], images=tmp_path / "all", on_status=events.append
    )
    started = time.monotonic()
    for index in range(60):
        of = frame(index)
        log.put(detection(of, score=0.5), of)
    assert time.monotonic() - started < 0.5, "inspection waited for pictures"
    kept = log.close()
    images = kept[str(tmp_path / "all")]
    assert images.written + images.lost == 60
    assert images.lost >= 40
    assert kept[str(tmp_path / "line.jsonl")].written == 60
    written = [json.loads(line)["image"] for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert {image for image in written if image is not None} == {
        str(path) for path in (tmp_path / "all").iterdir()
    }
    assert [event.kind for event in events] == ["sink_full"], "one event for many, not one each"
    assert f"{tmp_path / 'all'} does not keep up; 1 of what was to be written there" in events[0].message


def test_a_full_disk_ends_no_inspection_and_the_pictures_come_later(
    detector: Detector, tmp_path: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    events: list[StatusEvent] = []
    log = InspectionLog(detector, images=tmp_path / "all", on_status=events.append)
    with small_disk(100):
        of = frame(0)
        log.put(detection(of, score=0.5), of)
        deadline = time.monotonic() + 30
        while not events and time.monotonic() < deadline:
            time.sleep(0.01)
        assert events[0].kind == "sink_failed"
        assert list((tmp_path / "all").iterdir()) == [], "a part of an image was left behind"
    assert log.close()[str(tmp_path / "all")].written == 1
    assert [event.kind for event in events] == ["sink_failed", "sink_recovered"]
    assert len(list((tmp_path / "all").iterdir())) == 1


def test_rejects_may_go_to_the_folder_of_all_images(detector: Detector, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with InspectionLog(detector, records=[tmp_path / "line.db"], images=out, rejects=out) as log:
        put(log, 7)
        log.put(detection(frame(7), score=2.0), frame(7))  # still in hand when it is closed
    kept = {name: (each.written, each.waiting, each.lost) for name, each in log.stats.items()}
    assert kept == {
        str(tmp_path / "line.db"): (8, 0, 0),
        f"{out} (rejects)": (4, 0, 0),
        str(out): (8, 0, 0),
    }
    names = [path.name for path in out.iterdir()]
    assert len(names) == 12
    assert sum(name.endswith(".reject.jpg") for name in names) == 4


def test_rejects_in_the_folder_of_one_source_are_counted_apart(detector: Detector, tmp_path: Path) -> None:
    with InspectionLog(detector, images=tmp_path, rejects=tmp_path / "cam", per_source=True) as log:
        put(log, 4)
    assert {name: each.written for name, each in log.stats.items()} == {
        str(tmp_path / "cam"): 2,
        f"{tmp_path / 'cam'} (images)": 4,
    }


def test_a_file_of_records_is_named_once(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"The file \./x/\.\./line\.db came twice for records; wanted each"):
        InspectionLog(detector, records=[tmp_path / "line.db", "./x/../line.db"])
    assert list(tmp_path.glob("line*")) == []


def test_a_picture_that_can_never_be_written_is_given_up(detector: Detector, tmp_path: Path) -> None:
    """A name that is too long with our number before it, and a side beyond JPEG's 65,535 pixels."""
    events: list[StatusEvent] = []
    wide = Frame(np.zeros((2, 65_600, 3), np.uint8), 1, "cam", 1_795_000_000.0, 1.0)
    named = Frame(frame(2).image, 2, "cam", 1_795_000_000.0, 1.0, tmp_path / f"{'x' * 248}.png")
    with InspectionLog(detector, images=tmp_path / "all", on_status=events.append) as log:
        for of in (wide, frame(0), named, frame(3)):
            log.put(detection(of, score=0.5), of)
        deadline = time.monotonic() + 60
        while log.stats[str(tmp_path / "all")].waiting and time.monotonic() < deadline:
            time.sleep(0.01)
    kept = log.stats[str(tmp_path / "all")]
    assert (kept.written, kept.waiting, kept.lost) == (2, 0, 2)
    assert len(list((tmp_path / "all").iterdir())) == 2
    given_up = [event for event in events if "which is given up" in event.message]
    assert len(given_up) == 1, "one event for many"
    assert "OpenCV cannot write an image of shape (2, 65600, 3)" in given_up[0].message


def test_what_cannot_be_written_is_refused_at_once(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file cannot be written to"):
        InspectionLog(detector, images=tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written to"):
        InspectionLog(detector, video=tmp_path / "file" / "line.mkv")
    with pytest.raises(ConfigError, match=r"has the extension '\.gif'"):
        InspectionLog(detector, records=[tmp_path / "line.db"], video=tmp_path / "line.gif")
    with pytest.raises(ConfigError, match="A limit of 0 bytes came"):
        InspectionLog(detector, rejects=tmp_path / "rejects", rejects_limit_bytes=0)
    # What had been opened before the refusal is free again.
    InspectionLog(detector, records=[tmp_path / "line.db"]).close()
