"""The product's own pipeline under measurement: sources, threads and drop policies as in `Detector.run`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from cada_edge.benchmarks.bench_blocks import Block, sink, stages_of
from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_frames import FrameSet, SteadyFrames
from cada_edge.benchmarks.bench_subject import Subject
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.run_options import RunOptions
from cada_edge.runtime.source_base import Frame

__all__ = ["fill_camera", "fill_throughput"]

_SETTLING = -1
"""Index of frames that come before the measured ones, while threads start and a GPU's engine is loaded."""
_SETTLE_EVERY_S = 0.02
_QUIET_S = 0.1
"""Time without a verdict, at least, after which what settling left behind in the queues is done; and the
pause before the first frame that is due."""


def fill_throughput(
    block: Block, subject: Subject, frames: FrameSet, config: BenchConfig, seconds: float
) -> None:
    """Keep the pipeline full: every source gives its next frame as soon as there is room for it.

    A sample is the time from a frame's capture to the end of its sink, waiting in the pipeline included. The
    rate leaves out the first batch, which found the pipeline empty; its samples are counted.
    """
    ends_s = [float("inf")]
    feeds = _feeds("source", block, frames, config)
    measured = _Measured(block, feeds, is_due=False)

    def as_fast(feed: _Feed) -> Iterator[Frame]:
        yield from feed.settle(measured.ready)
        # One at least: the first verdict may come while this waits for room.
        while not feed.taken_s or time.perf_counter() < ends_s[0]:
            yield feed.next_frame()

    def begin() -> None:
        block.started_s = time.perf_counter()
        ends_s[0] = block.started_s + seconds

    measured.on_ready = begin
    capacity = max(2, config.batch)
    options = RunOptions(batch=config.batch, policy="block", capacity=capacity)
    sources = [SteadyFrames(as_fast(feed), source_id=feed.name) for feed in feeds]
    try:
        with subject.detector.run(*sources, on_result=measured.take, options=options) as run:
            run.join()
    finally:
        first = min(config.batch, len(measured.ended_s))
        if len(measured.ended_s) > first:
            taken_s = measured.ended_s[-1] - measured.ended_s[first - 1]
            block.rate = (len(measured.ended_s) - first) / taken_s
        elif measured.ended_s:
            # One batch alone, of a model that is slower than the time it was given.
            block.rate = len(measured.ended_s) / (block.ended_s - block.started_s)


def fill_camera(
    block: Block, subject: Subject, frames: FrameSet, config: BenchConfig, seconds: float
) -> None:
    """Let cameras give frames at their rate, however the model fares: an open loop.

    Frame i of a camera is due at its start + i / fps, and its latency counts from there: a stall makes
    every frame late that fell due in it. Several cameras are spread evenly over a frame's time.
    """
    interval_s = 1 / config.fps
    count = max(1, round(seconds * config.fps))
    feeds = _feeds("camera", block, frames, config)
    measured = _Measured(block, feeds, is_due=True)

    policy: Any = config.drop
    capacity = 1 if config.drop == "latest" else max(4, config.batch)

    def begin() -> None:
        block.started_s = time.perf_counter() + _QUIET_S
        for number, feed in enumerate(feeds):
            offset_s = interval_s * number / len(feeds)
            feed.due_s = [block.started_s + offset_s + place * interval_s for place in range(count)]

    def at_its_rate(feed: _Feed) -> Iterator[Frame]:
        yield from feed.settle(measured.ready)
        measured.begin_when_quiet(begin)
        for due_s in feed.due_s:
            left_s = due_s - time.perf_counter()
            if left_s > 0:
                time.sleep(left_s)
            yield feed.next_frame()

    options = RunOptions(batch=config.batch, policy=policy, capacity=capacity)
    sources = [SteadyFrames(at_its_rate(feed), source_id=feed.name) for feed in feeds]
    try:
        with subject.detector.run(*sources, on_result=measured.take, options=options) as run:
            run.join()
    finally:
        block.due = sum(len(feed.taken_s) for feed in feeds)
        block.dropped = block.due - block.frames
        block.late = sum(total_ms > interval_s * 1e3 for total_ms in block.total_ms)
        # To the end of the last frame's own time: n frames take n intervals, not n - 1.
        lasted_s = max(block.ended_s - block.started_s, block.due / len(feeds) * interval_s)
        block.rate = block.frames / lasted_s if lasted_s > 0 else 0.0


class _Feed:
    """One camera or source, and when it gave each frame."""

    def __init__(self, frames: FrameSet, name: str, start: int) -> None:
        self.name = name
        self.due_s: list[float] = []
        self.taken_s: list[float] = []
        self._images: Iterator[NDArray[Any]] = frames.cycle(start)

    def settle(self, ready: threading.Event) -> Iterator[Frame]:
        """Give frames that are not measured until the first of them has had its verdict."""
        while not ready.is_set():
            yield self._stamp(_SETTLING)
            ready.wait(_SETTLE_EVERY_S)

    def next_frame(self) -> Frame:
        """Give the next measured frame."""
        frame = self._stamp(len(self.taken_s))
        self.taken_s.append(time.perf_counter())
        return frame

    def _stamp(self, index: int) -> Frame:
        return Frame(next(self._images), index, self.name, time.time(), time.monotonic())


def _feeds(name: str, block: Block, frames: FrameSet, config: BenchConfig) -> list[_Feed]:
    first = block.first_frame
    return [_Feed(frames, f"{name} {number + 1}", first + number * 5) for number in range(config.streams)]


class _Measured:
    """Turns verdicts into samples of a block; called in one thread of the run."""

    def __init__(self, block: Block, feeds: list[_Feed], *, is_due: bool) -> None:
        self.ready = threading.Event()
        self.on_ready: Callable[[], None] | None = None
        self.ended_s: list[float] = []
        self._block = block
        self._feeds = {feed.name: feed for feed in feeds}
        self._is_due = is_due
        self._starting = threading.Lock()
        self._has_begun = False
        self._settled_s = self._settled_ms = 0.0

    def begin_when_quiet(self, begin: Callable[[], None]) -> None:
        """Call `begin`, once for all feeds, when no frame of settling comes any more."""
        with self._starting:
            quiet_s = max(_QUIET_S, 3 * self._settled_ms / 1e3)
            while not self._has_begun:
                left_s = self._settled_s + quiet_s - time.perf_counter()
                if left_s <= 0:
                    begin()
                    self._has_begun = True
                else:
                    time.sleep(left_s)

    def take(self, detection: Detection, frame: Frame) -> None:
        """Write the verdict down and time it; the first settling one begins the measuring."""
        decided_s = time.perf_counter()
        sink(detection)
        ended_s = time.perf_counter()
        if frame.index == _SETTLING:
            self._settled_s = ended_s
            if not self.ready.is_set():
                self._settled_ms = detection.timings_ms["total"]
                if self.on_ready is not None:
                    self.on_ready()
                self.ready.set()
            return
        feed = self._feeds[frame.source_id]
        taken_s = feed.taken_s[frame.index]
        from_s = feed.due_s[frame.index] if self._is_due else taken_s
        stages = {**stages_of(detection.timings_ms), "sink": (ended_s - decided_s) * 1e3}
        if self._is_due:
            # From due to handed over: what a camera's own driver would add is not in it.
            stages["capture"] = (taken_s - from_s) * 1e3
        self._block.engine = detection.backend or "unknown"
        self._block.add(from_s, (ended_s - from_s) * 1e3, stages)
        self._block.ended_s = ended_s
        self.ended_s.append(ended_s)
