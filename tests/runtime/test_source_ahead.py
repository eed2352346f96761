from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.source_ahead import ReadAheadSource
from cada_edge.runtime.source_files import FileSource
from cada_edge.runtime.sources import Frame, open_source
from cada_edge.runtime.stream_events import StatusEvent, StreamCounts

pytestmark = pytest.mark.alone

PutImage = Callable[..., Path]

GREY = np.full((5, 7), 9, np.uint8)


def read_ahead(given: object, *, capacity: int = 5, **options: Any) -> ReadAheadSource:
    source = open_source(given, policy="block", capacity=capacity, **options)
    assert isinstance(source, ReadAheadSource)
    return source


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_files_are_read_ahead_and_none_is_dropped(tmp_path: Path, put_image: PutImage) -> None:
    for number in range(12):
        put_image(tmp_path / f"{number}.png", value=number)
    with open_source(tmp_path, policy="block", capacity=3) as source:
        assert source.length == 12
        first = next(source)
        deadline = time.monotonic() + 10
        while source.counts.waiting < 4:  # three in the buffer, one in the thread's hands
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert source.counts == StreamCounts(captured=5, delivered=1, waiting=4)
        rest = list(source)
    assert [int(frame.image[-1, -1, 0]) for frame in [first, *rest]] == list(range(12))
    assert source.counts == StreamCounts(captured=12, delivered=12)


def test_a_generator_around_a_camera_becomes_live() -> None:
    def camera() -> Iterator[np.ndarray]:
        for value in range(60):
            time.sleep(0.002)
            yield np.full((2, 2), value, np.uint8)

    with open_source(camera(), policy="latest") as source:
        last = -1
        for frame in source:
            assert frame.index == last + 1 + frame.dropped_before
            last = frame.index
            time.sleep(0.015)
    assert last == 59
    assert source.counts.dropped > 10
    assert source.counts.delivered + source.counts.dropped == source.counts.captured == 60


def test_unreadable_images_are_counted_and_are_no_gap(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    put_image(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes(b"")
    events: list[StatusEvent] = []
    with open_source(tmp_path, policy="block", on_error="skip", on_status=events.append) as source:
        assert [frame.index for frame in source] == [0, 2]
    assert source.counts == StreamCounts(captured=4, delivered=2, corrupt=2)
    assert [(event.kind, dict(event.data)) for event in events] == [
        ("corrupt", {"index": 1, "corrupt": 1}),
        ("corrupt", {"index": 3, "corrupt": 2}),
        ("ended", {}),
    ]
    assert events[0].message == f"Frame 1 of {tmp_path} cannot be decoded and is passed over (1 so far)"
    with open_source(tmp_path, policy="block") as source:
        assert next(source).index == 0
        with pytest.raises(ImageReadError, match=r"1\.png"):
            next(source)
    assert source.counts == StreamCounts(captured=2, delivered=1, corrupt=1)


def test_gaps_in_a_cameras_own_numbers_are_reported() -> None:
    frames = [Frame(GREY, index, "sdk", 1.0, 2.0) for index in (100, 101, 105, 106)]
    events: list[StatusEvent] = []
    with open_source(frames, policy="block", on_status=events.append) as source:
        assert [frame.index for frame in source] == [100, 101, 105, 106]
    assert source.counts == StreamCounts(captured=4, delivered=4, source_gaps=3)
    event, ended = events
    assert ended.kind == "ended"
    assert (event.kind, event.data) == ("gap", {"frames": 3})
    assert event.message == "3 frames of iterable never came, by its own numbering"


class Clock:
    """Stands in for the module time: a second passes when the test says so."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    time = monotonic


def test_losses_are_told_at_once_and_then_at_most_once_a_second(
    tmp_path: Path, put_image: PutImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("cada_edge.runtime.stream_events.time", clock)
    (tmp_path / "broken.png").write_bytes(b"broken")

    def camera() -> Iterator[Frame | Path]:
        for index in range(0, 200, 2):
            yield Frame(GREY, index, "sdk", 1.0, 2.0)
        clock.now_s += 1
        yield Frame(GREY, 199, "sdk", 1.0, 2.0)  # nothing is missing here, but there was
        for _ in range(10):
            yield tmp_path / "broken.png"
        yield Frame(GREY, 300, "sdk", 1.0, 2.0)

    events: list[StatusEvent] = []
    source = read_ahead(camera(), capacity=200, on_error="skip", on_status=events.append)
    assert len(list(source)) == 102
    assert [(event.kind, dict(event.data)) for event in events] == [
        ("gap", {"frames": 1}),
        ("gap", {"frames": 98}),
        ("corrupt", {"index": 101, "corrupt": 1}),
        ("gap", {"frames": 90}),
        ("corrupt", {"index": 110, "corrupt": 10}),
        ("ended", {}),
    ]
    assert source.counts == StreamCounts(captured=112, delivered=102, corrupt=10, source_gaps=189)


def test_an_error_of_the_generator_comes_after_its_frames_and_close_ends_it() -> None:
    def fails() -> Iterator[np.ndarray]:
        yield GREY
        raise RuntimeError("the SDK failed")

    with open_source(fails(), policy="block") as source:
        np.testing.assert_array_equal(next(source).image, GREY)
        with pytest.raises(RuntimeError, match="the SDK failed"):
            next(source)
        with pytest.raises(StopIteration):
            next(source)

    ended = threading.Event()

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield GREY
        finally:
            ended.set()

    events: list[StatusEvent] = []
    source = open_source(endless(), policy="latest", on_status=events.append)
    next(source)
    source.close()
    assert ended.wait(10)
    assert not events, "it was closed, and did not end"
    assert source.counts.waiting == 0
    assert isinstance(source, ReadAheadSource)


def test_what_a_generator_raises_when_it_is_closed_is_raised_by_close() -> None:
    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield GREY
        finally:
            raise RuntimeError("StopGrabbing failed")

    source = open_source(camera(), policy="latest")
    next(source)
    with pytest.raises(RuntimeError, match="StopGrabbing failed"):
        source.close()
    source.close()
    assert source.counts.waiting == 0


def test_what_a_generator_raises_while_it_is_closed_is_raised_by_close() -> None:
    sources: list[ReadAheadSource] = []

    def camera() -> Iterator[np.ndarray]:
        yield GREY
        wait_until(lambda: bool(sources) and sources[0].buffer.closed)
        raise RuntimeError("the cable is out")

    sources.append(read_ahead(camera()))
    assert next(sources[0]).index == 0
    with pytest.raises(RuntimeError, match="the cable is out"):
        sources[0].close()
    sources[0].close()


def test_an_error_behind_frames_that_nobody_takes_is_raised_by_close() -> None:
    def camera() -> Iterator[np.ndarray]:
        yield GREY
        yield GREY
        raise RuntimeError("the cable is out")

    source = read_ahead(camera())
    wait_until(lambda: not source._thread.is_alive())
    assert next(source).index == 0
    with pytest.raises(RuntimeError, match="the cable is out"):
        source.close()


def test_a_file_that_nobody_asked_for_makes_no_failure_of_a_close(
    tmp_path: Path, put_image: PutImage, caplog: pytest.LogCaptureFixture
) -> None:
    put_image(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    source = read_ahead(tmp_path)
    wait_until(lambda: not source._thread.is_alive())
    source.close()
    assert "was closed before its error was reached: The image" in caplog.text


def test_what_a_generator_raises_long_after_it_was_closed_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cada_edge.runtime.source_ahead._LONGEST_WAIT_S", 0.01)
    released = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield GREY
        released.wait(30)
        raise RuntimeError("the cable is out")

    source = read_ahead(camera())
    next(source)
    source.close()
    released.set()
    source._thread.join(30)
    assert "iterable failed after it was closed" in caplog.text
    assert "RuntimeError: the cable is out" in caplog.text


def test_what_closing_raises_hides_no_error_before_it(caplog: pytest.LogCaptureFixture) -> None:
    def camera() -> Iterator[object]:
        try:
            yield GREY
            yield 7
        finally:
            raise RuntimeError("StopGrabbing failed")

    with open_source(camera(), policy="block") as source:
        next(source)
        with pytest.raises(SourceError, match="Item 1 of iterable is of type int"):
            next(source)
    assert "Closing iterable failed" in caplog.text
    assert "StopGrabbing failed" in caplog.text


@pytest.mark.parametrize("kind", ["array", "frame", "function"])
def test_an_array_that_is_filled_again_shows_no_frame_the_next_ones_pixels(kind: str) -> None:
    array = np.zeros((4, 6, 3), np.uint8)[:, ::2]  # as a cut-out of an SDK's buffer

    def camera() -> Iterator[np.ndarray | Frame]:
        for value in range(1, 6):
            array[:] = value
            yield Frame(array, value - 1, "sdk", 1.0, 2.0) if kind == "frame" else array

    frames = camera()
    source = read_ahead((lambda: next(frames, None)) if kind == "function" else frames)
    wait_until(lambda: not source._thread.is_alive())
    taken = list(source)
    assert [int(frame.image.min()) for frame in taken] == [1, 2, 3, 4, 5]
    assert [int(frame.image.max()) for frame in taken] == [1, 2, 3, 4, 5]


def test_frames_that_are_made_here_are_not_copied(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "0.png")
    made = next(open_source(tmp_path))

    class Known(FileSource):
        def _read(self) -> Frame | None:
            return made if self._position == 0 else None

    with ReadAheadSource(Known([tmp_path / "0.png"], source_id="belt")) as source:
        assert next(source) is made


def test_a_function_that_grabs_is_a_source() -> None:
    items = [GREY, GREY + 1, None, GREY]
    with open_source(lambda: items.pop(0)) as source:
        assert source.source_id == "callable"
        assert [int(frame.image[0, 0]) for frame in source] == [9, 10]
    assert len(items) == 1


def test_a_list_file_names_images(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "b/ü 1.png", value=1)
    put_image(tmp_path / "a.bmp", value=2)
    listing = tmp_path / "today.txt"
    listing.write_text(f"\ufeff# the order counts\nb/ü 1.png\n\n  {tmp_path / 'a.bmp'}  \n", "utf-8")
    with open_source(listing) as source:
        assert source.length == 2
        assert [int(frame.image[-1, -1, 0]) for frame in source] == [1, 2]
    listing.write_text("# nothing\n")
    with pytest.raises(SourceError, match=r"The list file .*today.txt names no image"):
        open_source(listing)
    listing.write_text("a.bmp\nmovie.mp4\n")
    with pytest.raises(
        SourceError, match=r"Line 2 of .*today.txt is 'movie.mp4'; wanted the path of an image"
    ):
        open_source(listing)
    listing.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(SourceError, match=r"The list file .*today.txt cannot be read"):
        open_source(listing)
