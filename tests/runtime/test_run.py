"""Runs on a real engine, with a model file of known numbers."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import (
    ClosedError,
    ConfigError,
    CudaError,
    FrameError,
    ImageReadError,
    SourceError,
    SourceLostError,
    ThreadOwnerError,
)
from cada_edge.runtime.buffered_source import BufferedSource
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.live_address import LiveAddress
from cada_edge.runtime.live_source import LiveSource, Reconnect
from cada_edge.runtime.page_state import PageState
from cada_edge.runtime.run import Run
from cada_edge.runtime.run_options import RunOptions
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.sources import open_source
from cada_edge.runtime.stream_events import OnStatus, StatusEvent, StreamCounts

pytestmark = pytest.mark.alone

PutImage = Callable[..., Path]
ADDRESS = LiveAddress("network", "rtsp://cam", "rtsp://cam")


class Listener:
    """Keeps what a run delivers."""

    def __init__(self, *, sleep_s: float = 0.0) -> None:
        self.results: list[tuple[Detection, Frame]] = []
        self.events: list[StatusEvent] = []
        self._sleep_s = sleep_s

    def result(self, detection: Detection, frame: Frame) -> None:
        self.results.append((detection, frame))
        time.sleep(self._sleep_s)

    @property
    def indices(self) -> list[int]:
        return [frame.index for _, frame in self.results]


@pytest.fixture
def detector(tiny_model: Path) -> Iterator[Detector]:
    with Detector(tiny_model, threads=1) as opened:
        yield opened


def images(count: int, start: int = 0) -> Iterator[np.ndarray]:
    for value in range(start, start + count):
        yield np.full((20, 30, 3), value % 256, np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_every_frame_of_a_source_gets_its_verdict_in_order(detector: Detector) -> None:
    listener = Listener()
    run = detector.run(images(200), on_result=listener.result)
    assert run.join()
    assert not run.is_alive
    assert listener.indices == list(range(200))
    for detection, frame in listener.results:
        value = float(frame.image[0, 0, 0]) / 255
        assert detection.score == pytest.approx(value, abs=1e-5)
        assert (detection.frame_index, detection.source_id) == (frame.index, "iterable")
        assert detection.is_anomalous is (detection.score > 0.5)
    stats = run.stats
    assert stats.sources == {"iterable": StreamCounts(captured=200, delivered=200)}
    assert stats.inspected == 200
    assert stats.anomalous == sum(value % 256 > 127 for value in range(200))
    assert set(stats.latency_ms) == {"p50", "p95", "p99", "max"}
    assert stats.latency_ms["p50"] <= stats.latency_ms["p99"] <= stats.latency_ms["max"]
    assert stats.frames_per_second > 0
    assert stats.to_dict()["sources"]["iterable"]["captured"] == 200
    assert run.join()
    assert run.stats.seconds == stats.seconds


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_sources_take_turns(detector: Detector, batch: int) -> None:
    listener, gate = Listener(), threading.Event()

    def result(detection: Detection, frame: Frame) -> None:
        gate.wait(30)
        listener.result(detection, frame)

    run = detector.run(
        *(open_source(images(60), source_id=name) for name in "abc"),
        on_result=result,
        options=RunOptions(batch=batch, policy="block", capacity=60),
    )
    # The pipeline is full and every other frame waits: from here on each source is always ready.
    wait_until(lambda: all(counts.captured == 60 for counts in run.stats.sources.values()))
    gate.set()
    run.join()
    names = [frame.source_id for _, frame in listener.results]
    assert Counter(names) == {"a": 60, "b": 60, "c": 60}
    for name in "abc":
        assert [frame.index for _, frame in listener.results if frame.source_id == name] == list(range(60))
    held = 4 * batch  # three stages and the batch that was being taken
    turns = names[held:-held]
    assert all(turns[place] == turns[place + 3] for place in range(len(turns) - 3 - held))
    assert len(turns) > 60


def test_a_batch_waits_no_longer_than_its_timeout(detector: Detector) -> None:
    released = threading.Event()

    def slow() -> Iterator[np.ndarray]:
        yield from images(1)
        released.wait(30)

    listener = Listener()
    run = detector.run(slow(), on_result=listener.result, options=RunOptions(batch=8, batch_timeout_s=0.05))
    wait_until(lambda: len(listener.results) == 1)
    assert run.is_alive
    released.set()
    assert run.join()


def test_a_slow_listener_costs_a_live_source_frames_and_files_none(detector: Detector) -> None:
    def camera() -> Iterator[np.ndarray]:
        for image in images(150):
            time.sleep(0.001)
            yield image

    listener = Listener(sleep_s=0.01)
    run = detector.run(camera(), on_result=listener.result, options=RunOptions(policy="latest"))
    run.join()
    counts = run.stats.sources["iterable"]
    assert counts.dropped > 50
    assert counts.captured == 150 == counts.delivered + counts.dropped
    assert sum(1 + detection.dropped_before for detection, _ in listener.results) == 150
    assert listener.indices[-1] == 149

    listener = Listener(sleep_s=0.002)
    detector.run(images(50), on_result=listener.result).join()
    assert listener.indices == list(range(50))


def test_an_open_source_keeps_its_own_policy_and_counts(detector: Detector) -> None:
    def camera() -> Iterator[np.ndarray]:
        for image in images(150):
            time.sleep(0.001)
            yield image

    listener = Listener(sleep_s=0.01)
    source = open_source(camera(), policy="latest", source_id="press 3")
    run = detector.run(source, images(3), on_result=listener.result)
    run.join()
    counts = run.stats.sources["press 3"]
    assert counts.dropped > 50
    assert counts.captured == 150 == counts.delivered + counts.dropped
    assert source.closed
    assert Counter(frame.source_id for _, frame in listener.results)["iterable"] == 3


def test_stop_ends_an_endless_source_and_nothing_waits(detector: Detector) -> None:
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield from images(1)

    listener = Listener()
    with detector.run(endless(), on_result=listener.result) as run:
        wait_until(lambda: len(listener.results) > 5)
        assert not run.join(0.01)
    assert not run.is_alive
    counts = run.stats.sources["iterable"]
    assert counts.waiting == 0
    assert counts.captured == counts.delivered + counts.dropped
    # What was taken got its verdict.
    assert counts.delivered == len(listener.results) == run.stats.inspected


def test_pause_and_resume(detector: Detector) -> None:
    listener = Listener()
    run = detector.run(images(10**9), on_result=listener.result)
    wait_until(lambda: len(listener.results) > 3)
    run.pause()
    assert run.is_paused
    # What was taken before still gets its verdict.
    wait_until(lambda: run.stats.sources["iterable"].delivered == len(listener.results))
    seen = len(listener.results)
    time.sleep(0.1)
    assert len(listener.results) == seen
    run.resume()
    assert not run.is_paused
    wait_until(lambda: len(listener.results) > seen)
    run.stop()
    run.join()
    assert listener.indices == list(range(len(listener.results)))


def test_an_error_of_the_listener_reaches_the_caller(detector: Detector) -> None:
    def fail(detection: Detection, frame: Frame) -> None:
        if frame.index == 3:
            raise RuntimeError("the reject gate is stuck")

    run = detector.run(images(500), on_result=fail)
    with pytest.raises(RuntimeError, match="the reject gate is stuck"):
        run.join()
    assert not run.is_alive
    assert run.stats.sources["iterable"].waiting == 0
    # The detector is as before.
    assert detector(np.full((4, 4, 3), 255, np.uint8)).score == pytest.approx(1)


def test_an_error_of_a_source_comes_after_its_frames(
    detector: Detector, tmp_path: Path, put_image: PutImage
) -> None:
    put_image(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    put_image(tmp_path / "2.png")
    listener = Listener()
    with pytest.raises(ImageReadError, match=r"1\.png"):
        detector.run(tmp_path, on_result=listener.result).join()
    assert listener.indices == [0]
    listener = Listener()
    run = detector.run(tmp_path, on_result=listener.result, options=RunOptions(on_error="skip"))
    run.join()
    assert listener.indices == [0, 2]
    assert run.stats.sources[str(tmp_path)] == StreamCounts(captured=3, delivered=2, corrupt=1)


def test_a_frame_that_cannot_be_used_ends_the_run_after_those_before_it(detector: Detector) -> None:
    good, bad = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8)
    listener = Listener()
    options = RunOptions(batch=8, batch_timeout_s=0.5, policy="block", capacity=8)
    with pytest.raises(FrameError, match=r"A frame of shape \(4, 4, 2\) came"):
        detector.run([good, good, bad, good], [good], on_result=listener.result, options=options).join()
    names = sorted((frame.source_id, frame.index) for _, frame in listener.results)
    assert names == [("iterable", 0), ("iterable", 1), ("iterable (2)", 0)]


def test_under_overload_a_verdict_is_about_the_present(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is made slow here: a frame waits for the inference before its own, and for no further one."""
    inference_s, real = 0.1, detector.infer

    def slow(prepared: Any) -> Any:
        time.sleep(inference_s)
        return real(prepared)

    def camera() -> Iterator[np.ndarray]:
        for image in images(300):
            time.sleep(0.004)
            yield image

    monkeypatch.setattr(detector, "infer", slow)
    run = detector.run(camera(), options=RunOptions(policy="latest"))
    run.join()
    assert run.stats.inspected > 5
    assert 1.0 <= run.stats.latency_ms["p50"] / 1e3 / inference_s < 2.6


def test_an_error_of_the_model_reaches_the_caller(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prepared: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(detector, "infer", fail)
    with pytest.raises(MemoryError, match="no memory"):
        detector.run(images(100)).join()


class CameraDouble:
    """A connection that gives frames of the wanted sizes, then is lost; a double, named so."""

    notes: tuple[str, ...] = ()

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def read(self) -> tuple[Any | None, float, float] | None:
        time.sleep(0.002)
        if not self._sizes:
            return None
        size = self._sizes.pop(0)
        return np.zeros((size, size, 3), np.uint8), time.time(), time.monotonic()

    def close(self) -> None:
        pass


class GatedCamera:
    """A connection that gives the frames that it is told to, of these sizes; None: it is lost."""

    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._sizes: queue.Queue[int | None] = queue.Queue()

    def give(self, *sizes: int | None) -> None:
        for size in sizes:
            self._sizes.put(size)

    def read(self) -> tuple[Any | None, float, float] | None:
        size = self._sizes.get()
        if size is None:
            return None
        return np.zeros((size, size, 3), np.uint8), time.time(), time.monotonic()

    def close(self) -> None:
        pass


def live(sizes: list[int], name: str, *, on_status: OnStatus | None = None) -> LiveSource:
    connections = iter([CameraDouble(sizes)])

    def connect(address: LiveAddress, options: CameraOptions) -> CameraDouble:
        for connection in connections:
            return connection
        raise SourceError("no route")

    return LiveSource(
        ADDRESS,
        source_id=name,
        reconnect=Reconnect(0.001, 0.001, 0, limit=1),
        policy="block",
        on_status=on_status,
        connect=connect,
    )


def test_one_lost_camera_leaves_the_others_running(detector: Detector) -> None:
    listener = Listener()
    run = detector.run(live([20] * 2, "left"), live([20] * 40, "right"), on_result=listener.result)
    with pytest.raises(SourceLostError, match="left is given up"):
        run.join()
    assert Counter(frame.source_id for _, frame in listener.results) == {"left": 2, "right": 40}


def test_frames_of_any_size_and_refused_ones_of_a_fixed_size(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "fixed.onnx", frame_hw=(16, 16))
    events: list[StatusEvent] = []
    with Detector(path) as detector:
        listener = Listener()
        run = detector.run(
            live([16, 20, 16, 20, 16], "cam"), on_result=listener.result, on_status=events.append
        )
        with pytest.raises(SourceLostError):
            run.join()
        assert listener.indices == [0, 2, 4]
        assert run.stats.refused == 2
        (refused,) = (event for event in events if event.kind == "refused")
        assert "Frame 1 of cam cannot be inspected" in refused.message
        # Files of the wrong size are a mistake, not a camera's mood.
        with pytest.raises(FrameError):
            detector.run([np.zeros((20, 20, 3), np.uint8)]).join()


def test_refused_frames_of_one_source_hide_none_of_another(
    write_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cada_edge.runtime.stream_events.EVENT_EVERY_S", 3600)
    path = write_tiny_model(tmp_path / "fixed.onnx", frame_hw=(16, 16))
    events: list[StatusEvent] = []
    with Detector(path) as detector:
        run = detector.run(live([20] * 3, "left"), live([20, 16, 20], "right"), on_status=events.append)
        with pytest.raises(SourceLostError):
            run.join()
    refused = [event for event in events if event.kind == "refused"]
    assert {event.source_id: dict(event.data) for event in refused} == {
        "left": {"index": 0, "refused": 1},
        "right": {"index": 0, "refused": 1},
    }
    assert len(refused) == 2
    assert run.stats.refused == 5


def test_an_engine_is_lent_to_the_run_and_comes_back(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    frame = np.full((16, 16, 3), 255, np.uint8)
    with Detector(tiny_engine) as detector:
        assert detector(frame).score == pytest.approx(1)
        listener = Listener()
        entered, leave = threading.Event(), threading.Event()

        def result(detection: Detection, frame: Frame) -> None:
            listener.result(detection, frame)
            entered.set()
            leave.wait(30)

        run = detector.run(images(20), on_result=result)
        assert entered.wait(30)
        with pytest.raises(ThreadOwnerError):
            detector(frame)
        leave.set()
        run.join()
        assert listener.indices == list(range(20))
        assert detector(frame).score == pytest.approx(1)


@pytest.mark.parametrize("ends", ["by itself", "by an error"])
def test_an_engine_that_does_not_close_ends_the_run_with_its_error(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any, ends: str
) -> None:
    def result(detection: Detection, frame: Frame) -> None:
        if frame.index == 0:  # two more are on their way: the engine is still open
            cuda_double.fail["cuMemFree"] = 1
        if ends == "by an error":
            raise RuntimeError("the reject gate is stuck")

    frame = np.full((16, 16, 3), 255, np.uint8)
    with Detector(tiny_engine) as detector:
        run = detector.run(images(3), on_result=result)
        wanted = CudaError if ends == "by itself" else RuntimeError
        with pytest.raises(wanted):
            run.join(30)
        assert not run.is_alive
        # What it had open is gone: it is opened anew.
        assert detector(frame).score == pytest.approx(1)


def test_a_detector_that_does_not_close_is_closed(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    detector = Detector(tiny_engine).open()
    cuda_double.fail["cuMemFree"] = 1
    with pytest.raises(CudaError):
        detector.close()
    detector.close()
    with pytest.raises(ClosedError):
        detector(np.zeros((16, 16, 3), np.uint8))


def test_another_threads_engine_stays_its_own(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    frame = np.full((16, 16, 3), 255, np.uint8)
    detector = Detector(tiny_engine).open()
    errors: list[BaseException] = []

    def other() -> None:
        for call in (detector.give_back, detector.close):
            try:
                call()
            except ThreadOwnerError as error:
                errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert detector(frame).score == pytest.approx(1)
    detector.close()


def test_cameras_of_one_name_are_told_apart_in_their_events_too(detector: Detector) -> None:
    """Real sockets that refuse: two channels of one recorder, whose addresses differ in what is redacted."""
    events: list[StatusEvent] = []
    address = "http://me:{}@127.0.0.1:9/line"
    options = RunOptions(reconnect=Reconnect(0, 0, limit=0))
    run = detector.run(
        address.format("left"), address.format("right"), on_status=events.append, options=options
    )
    with pytest.raises(SourceLostError):
        run.join()
    name = "http://***@127.0.0.1:9/line"
    assert set(run.stats.sources) == {name, f"{name} (2)"}
    for source in run.stats.sources:
        own = [event for event in events if event.source_id == source]
        assert [event.kind for event in own] == ["lost", "gave_up"]
        assert all(event.message.startswith(f"{source} is ") for event in own)


def test_open_sources_of_one_name_are_told_apart_too(detector: Detector) -> None:
    events: list[StatusEvent] = []
    listener = Listener()
    sources = [open_source(images(2), source_id="belt", policy="block") for _ in range(2)]
    plain = open_source(images(2), source_id="belt")
    detector.run(*sources, plain, on_result=listener.result, on_status=events.append).join()
    names = {"belt", "belt (2)", "belt (3)"}
    assert {frame.source_id for _, frame in listener.results} == names
    assert {event.source_id for event in events if event.kind == "ended"} == names
    assert {event.message for event in events} == {f"{name} has no more frames" for name in names}


def own_frames(*names: str, count: int = 3) -> Iterator[Frame]:
    for index, image in enumerate(images(count)):
        for name in names:
            yield Frame(image, index, name, time.time(), time.monotonic())


def names_in(detector: Detector, *sources: Any) -> tuple[set[str], set[str], set[str], set[str]]:
    """Run sources; return their names in results, counts, events' sentences and on the page."""
    listener, page = Listener(), PageState()
    run = detector.run(*sources, on_result=listener.result, on_status=listener.events.append)
    run.join()
    page.watch(run)
    for result in listener.results:
        page.put(*result)
    for event in listener.events:
        page.tell(event)
        assert event.message == f"{event.source_id} has no more frames"
    assert all(detection.source_id == frame.source_id for detection, frame in listener.results)
    shown = page.snapshot()["sources"]
    assert all(source["counts"] is not None for source in shown)
    assert all(source["counts"]["delivered"] == source["inspected"] for source in shown)
    return (
        {frame.source_id for _, frame in listener.results},
        set(run.stats.sources),
        {event.source_id for event in listener.events},
        {source["name"] for source in shown},
    )


def test_frames_that_bring_a_name_give_it_to_their_source(detector: Detector) -> None:
    found = names_in(detector, own_frames("press"), own_frames("press"), own_frames("belt"), images(3))
    assert found == ({"press", "press (2)", "belt", "iterable (4)"},) * 4


def test_the_name_that_a_source_was_given_goes_before_that_of_its_frames(detector: Detector) -> None:
    left, right = (
        open_source(own_frames("press"), source_id=name, policy="block") for name in ("left", "right")
    )
    assert names_in(detector, left, right, own_frames("left")) == ({"left", "right", "left (2)"},) * 4


def test_names_of_several_cameras_in_one_source_are_kept(detector: Detector) -> None:
    listener = Listener()
    run = detector.run(own_frames("left", "right"), own_frames("right"), on_result=listener.result)
    run.join()
    found = Counter(frame.source_id for _, frame in listener.results)
    assert sorted(found.values()) == [3, 3, 3]
    assert set(found) == {"left", "right", "right (2)"}
    assert set(run.stats.sources) < set(found)
    assert "left" in run.stats.sources


def test_an_open_source_tells_the_run_unless_it_has_a_listener(detector: Detector) -> None:
    ours: list[StatusEvent] = []
    events: list[StatusEvent] = []
    left = live([20] * 2, "left")
    right = live([20] * 2, "right", on_status=ours.append)
    with pytest.raises(SourceLostError):
        detector.run(left, right, on_status=events.append).join()
    assert {event.source_id for event in events} == {"left"}
    assert events[-1].kind == "gave_up"
    assert {event.source_id for event in ours} == {"right"}
    assert ours[-1].kind == "gave_up"


def test_what_a_camera_raises_when_it_is_closed_reaches_the_caller(detector: Detector) -> None:
    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield from images(1)
        finally:
            raise RuntimeError("StopGrabbing failed")

    listener = Listener()
    run = detector.run(camera(), images(5), on_result=listener.result)
    wait_until(lambda: len(listener.results) > 5)
    run.stop()
    with pytest.raises(RuntimeError, match="StopGrabbing failed"):
        run.join()
    assert all(counts.waiting == 0 for counts in run.stats.sources.values())


def endless(name: str, closed: list[str], *, at_close: Callable[[], None]) -> BufferedSource:
    """Open a camera that has given a frame, and does something when it is closed."""

    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield from images(1)
        finally:
            at_close()
            closed.append(name)

    source = open_source(camera(), policy="latest", source_id=name)
    assert isinstance(source, BufferedSource)
    wait_until(lambda: source.counts.captured > 0)
    return source


def fail_to_stop() -> None:
    raise RuntimeError("StopGrabbing failed")


def test_all_sources_are_told_to_stop_before_one_is_waited_for(detector: Detector) -> None:
    closed: list[str] = []
    other_closes = threading.Event()
    together: list[bool] = []
    left = endless("left", closed, at_close=lambda: together.append(other_closes.wait(3)))
    right = endless("right", closed, at_close=other_closes.set)
    with detector.run(left, right):
        pass
    assert together == [True]
    assert closed == ["right", "left"]


@pytest.mark.parametrize("ends", ["by itself", "before it begins", "by a closed detector"])
def test_a_source_that_does_not_close_leaves_no_other_open(
    detector: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture, ends: str
) -> None:
    closed: list[str] = []
    sources: list[Any] = [
        endless("left", closed, at_close=fail_to_stop),
        endless("middle", closed, at_close=fail_to_stop),
        endless("right", closed, at_close=lambda: None),
    ]
    if ends == "by itself":
        with pytest.raises(RuntimeError, match="StopGrabbing failed"), detector.run(*sources):
            pass
    elif ends == "before it begins":
        with pytest.raises(SourceError, match="There is no"):
            detector.run(*sources, tmp_path / "missing.png")
    else:
        detector.close()
        with pytest.raises(ClosedError):
            detector.run(*sources)
    assert closed == ["right"]
    assert all(source.closed for source in sources)
    assert "Closing middle failed too" in caplog.text
    assert ("Closing the sources of a run that did not begin failed" in caplog.text) == (ends != "by itself")


def test_what_a_camera_raises_while_the_run_is_stopped_reaches_the_caller(detector: Detector) -> None:
    runs: list[Run] = []
    sources: list[Any] = []

    def camera() -> Iterator[np.ndarray]:
        yield from images(1)
        wait_until(lambda: bool(sources) and sources[0].buffer.closed)
        raise RuntimeError("the cable is out")

    def result(detection: Detection, frame: Frame) -> None:
        wait_until(lambda: bool(runs))
        runs[0].stop()

    sources.append(open_source(camera(), policy="latest"))
    runs.append(detector.run(sources[0], on_result=result))
    with pytest.raises(RuntimeError, match="the cable is out"):
        runs[0].join()


def test_the_rate_falls_when_no_frame_comes_any_more(detector: Detector) -> None:
    listener, camera = Listener(), GatedCamera()
    source = LiveSource(
        ADDRESS, reconnect=Reconnect(0, 0, 0, limit=0), policy="block", connect=lambda *_: camera
    )
    run = detector.run(source, on_result=listener.result)
    camera.give(*[16] * 20)
    wait_until(lambda: len(listener.results) == 20)
    rate = run.stats.frames_per_second
    assert rate > 0
    wait_until(lambda: run.stats.frames_per_second < rate / 4)
    camera.give(None)
    with pytest.raises(SourceLostError):
        run.join()
    assert run.stats.frames_per_second == run.stats.frames_per_second > 0


def test_drops_before_a_refused_frame_are_told_with_the_next(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "fixed.onnx", frame_hw=(16, 16))
    camera = GatedCamera()
    listener = Listener()
    source = LiveSource(
        ADDRESS, source_id="cam", reconnect=Reconnect(0, 0, 0, limit=0), connect=lambda *_: camera
    )
    with Detector(path) as detector:
        run = detector.run(source, on_result=listener.result, options=RunOptions(batch=2))
        run.pause()
        camera.give(16, 16, 20)
        wait_until(lambda: source.counts.dropped == 2)
        run.resume()
        wait_until(lambda: run.stats.refused == 1)
        camera.give(16)
        wait_until(lambda: len(listener.results) == 1)
        camera.give(None)
        with pytest.raises(SourceLostError):
            run.join()
    assert [(frame.index, frame.dropped_before) for _, frame in listener.results] == [(3, 2)]
    assert listener.results[0][0].dropped_before == 2
    counts = source.counts
    assert counts.delivered == run.stats.inspected + run.stats.refused


def test_a_second_interrupt_does_not_wait_for_a_listener_that_hangs(detector: Detector) -> None:
    leave = threading.Event()

    def hang(detection: Detection, frame: Frame) -> None:
        leave.wait(20)

    def interrupted_twice() -> None:
        with detector.run(images(100), on_result=hang) as run:
            runs.append(run)
            run.stop()  # as the handler of the first Ctrl-C does
            raise KeyboardInterrupt

    runs: list[Run] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert not leave.is_set()
    assert runs[0].is_alive
    leave.set()
    runs[0].join()


def test_refusals(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No source came; wanted at least one"):
        detector.run()
    with pytest.raises(SourceError, match="There is no"):
        detector.run([np.zeros((2, 2), np.uint8)], tmp_path / "missing.png")
    with pytest.raises(ConfigError, match="A batch of 0 frames came"):
        RunOptions(batch=0)
    with pytest.raises(ConfigError, match="batch_timeout_s -1 came"):
        RunOptions(batch_timeout_s=-1)
    detector.close()
    with pytest.raises(ClosedError, match="is closed"):
        detector.run(images(1))
