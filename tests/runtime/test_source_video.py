from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.source_base import Source
from cada_edge.runtime.sources import Frame, open_source

GREY = np.full((5, 7), 9, np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twenty flat frames, of which frame n is 8 n + 20, as MJPG."""
    path = tmp_path / "Vidéo 部品 7.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    assert writer.isOpened()
    for number in range(20):
        writer.write(np.full((48, 64, 3), 8 * number + 20, np.uint8))
    writer.release()
    return path


def frame_spans(data: bytes) -> list[slice]:
    """Locate the JPEGs in an AVI."""
    spans, offset = [], data.index(b"movi") + 4
    while data[offset : offset + 4] == b"00dc":
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        spans.append(slice(offset + 8, offset + 8 + size))
        offset += 8 + size + size % 2
    return spans


def damage(path: Path, *numbers: int) -> None:
    data = bytearray(path.read_bytes())
    spans = frame_spans(bytes(data))
    assert len(spans) == 20
    for number in numbers:
        data[spans[number]] = bytes(spans[number].stop - spans[number].start)
    path.write_bytes(data)


def video_numbers(frames: list[Frame]) -> list[int]:
    """Tell which frames of the fixture these are."""
    return [round((float(frame.image.mean()) - 20) / 8) for frame in frames]


def test_a_video_gives_every_frame_in_order(video: Path) -> None:
    with open_source(video) as source:
        assert source.length == 20
        frames = list(source)
    assert video_numbers(frames) == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert {(frame.image.shape, frame.image.dtype, frame.path) for frame in frames} == {
        ((48, 64, 3), np.dtype(np.uint8), video)
    }
    assert (source.delivered, source.corrupt) == (20, 0)


def test_frames_of_a_video_are_not_one_buffer(video: Path) -> None:
    source = open_source(str(video))
    first = next(source)
    before = first.image.copy()
    next(source)
    np.testing.assert_array_equal(first.image, before)


def test_a_damaged_frame_is_raised_and_does_not_end_the_video(video: Path) -> None:
    damage(video, 5)
    source = open_source(video)
    assert video_numbers([next(source) for _ in range(5)]) == [0, 1, 2, 3, 4]
    with pytest.raises(
        ImageReadError, match=r"Frame 5 of the video .* cannot be decoded; wanted .* on_error='skip'"
    ):
        next(source)
    rest = list(source)
    assert video_numbers(rest) == list(range(6, 20))
    assert [frame.index for frame in rest] == list(range(6, 20))


def test_damaged_frames_are_skipped_and_counted(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(video, 0, 5, 6, 18)
    source = open_source(video, on_error="skip")
    frames = list(source)
    expected = [1, 2, 3, 4, *range(7, 18), 19]
    assert video_numbers(frames) == expected
    assert [frame.index for frame in frames] == expected
    assert (source.delivered, source.corrupt) == (16, 4)
    assert len(caplog.records) == 4


@pytest.mark.parametrize("kept", [3, 12])
def test_a_truncated_video_is_no_clean_end(video: Path, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    data = video.read_bytes()
    video.write_bytes(data[: frame_spans(data)[kept].start - 8])
    if not cv2.VideoCapture(str(video)).isOpened():
        # OpenCV's own reader of AVI, all there is in a build without FFmpeg, refuses truncated files.
        with pytest.raises(SourceError, match="wanted a video that OpenCV can open"):
            open_source(video)
        return
    source = open_source(video)
    frames = [next(source) for _ in range(kept)]
    assert video_numbers(frames) == list(range(kept))
    with pytest.raises(
        SourceError, match=rf"ended after {kept} frames; wanted the 20 that it claims .* copy it"
    ):
        next(source)
    assert list(source) == []

    assert len(list(open_source(video, on_error="skip"))) == kept
    assert caplog.messages == [
        f"The video {video} ended after {kept} frames and claims 20: it may be truncated"
    ]


def test_files_that_are_no_video_are_refused(tmp_path: Path, video: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match=r"empty.mp4 is empty \(0 bytes\); wanted .* Copy it again"):
        open_source(tmp_path / "empty.mp4")
    (tmp_path / "notes.md").write_text("no video")
    with pytest.raises(SourceError, match=r"notes.md \(8 bytes\) came; wanted a video .* Rename an image"):
        open_source(tmp_path / "notes.md")


def test_a_video_of_damaged_frames_only_is_refused(
    open_fake: Callable[..., tuple[Source, FakeCapture]],
) -> None:
    with pytest.raises(
        SourceError, match=r"opens but holds no whole frame; wanted at least one.* convert it"
    ):
        open_fake([False] * 20, claimed=20)


class FakeCapture:
    """cv2.VideoCapture with known answers: per grab a frame, False, or None for what cannot be decoded."""

    def __init__(self, answers: list[Any], *, claimed: float, backend: str = "FAKE") -> None:
        self.answers, self.claimed, self.backend = answers, claimed, backend
        self.grabs = 0
        self.released = 0

    def isOpened(self) -> bool:
        return True

    def getBackendName(self) -> str:
        return self.backend

    def get(self, _property: int) -> float:
        return self.claimed

    def grab(self) -> bool:
        self.grabs += 1
        return self.grabs <= len(self.answers) and self.answers[self.grabs - 1] is not False

    def retrieve(self) -> tuple[bool, Any]:
        return True, self.answers[self.grabs - 1]

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def open_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Source, FakeCapture]]:
    def opened(answers: list[Any], *, on_error: Any = "raise", **options: Any) -> tuple[Source, FakeCapture]:
        capture = FakeCapture(answers, **options)
        monkeypatch.setattr(cv2, "VideoCapture", lambda _path: capture)
        path = tmp_path / "fake.mp4"
        path.write_bytes(b"x")
        return open_source(path, on_error=on_error), capture

    return opened


def test_small_shortfalls_of_a_container_are_only_logged(
    open_fake: Callable[..., tuple[Source, FakeCapture]], caplog: pytest.LogCaptureFixture
) -> None:
    source, capture = open_fake([GREY] * 18, claimed=20)
    assert len(list(source)) == 18
    assert "ended after 18 frames and claims 20" in caplog.text
    assert capture.released == 1
    source, _ = open_fake([GREY] * 17, claimed=20)
    with pytest.raises(SourceError, match="ended after 17 frames; wanted the 20"):
        list(source)
    source, _ = open_fake([GREY] * 990, claimed=1000)
    assert len(list(source)) == 990
    source, _ = open_fake([GREY] * 989, claimed=1000)
    with pytest.raises(SourceError, match="ended after 989 frames; wanted the 1000"):
        list(source)


def test_a_video_that_claims_nothing_or_too_little_ends_where_it_ends(
    open_fake: Callable[..., tuple[Source, FakeCapture]], caplog: pytest.LogCaptureFixture
) -> None:
    for claimed in (0, -1, 3):
        source, _ = open_fake([GREY] * 5, claimed=claimed)
        assert source.length == (3 if claimed == 3 else None)
        assert len(list(source)) == 5
    assert caplog.messages == []


def test_both_signs_of_a_damaged_frame_are_counted(
    open_fake: Callable[..., tuple[Source, FakeCapture]],
) -> None:
    source, _ = open_fake([GREY, False, False, GREY, None, GREY], claimed=6, on_error="skip")
    assert [frame.index for frame in source] == [0, 3, 5]
    assert source.corrupt == 3


def test_the_end_of_a_whole_video_is_asked_for_once(
    open_fake: Callable[..., tuple[Source, FakeCapture]],
) -> None:
    source, capture = open_fake([GREY] * 4, claimed=4)
    assert capture.grabs == 1
    assert len(list(source)) == 4
    assert capture.grabs == 5
    source.close()
    source.close()
    assert capture.released == 2


def test_a_sequence_of_images_is_not_taken_for_a_video(
    open_fake: Callable[..., tuple[Source, FakeCapture]],
) -> None:
    with pytest.raises(SourceError, match="wanted a video that OpenCV can open, or an image named as one"):
        open_fake([GREY], claimed=1, backend="CV_IMAGES")
