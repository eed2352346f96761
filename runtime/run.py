"""A run: sources, model and listener joined by threads, so that capture, preprocessing and inference overlap.

    sources (a thread each) -> prepare: fair batches, preprocessing -> infer: the model -> deliver: verdicts

Everything between two stages is bounded. What a thread raises ends the run in order and is raised by `join`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from cada_edge.errors import FrameError, SourceError
from cada_edge.runtime.buffered_source import BufferedSource, close_all
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.fair_batches import FairBatches
from cada_edge.runtime.handoff import Handoff
from cada_edge.runtime.live_source import LiveSource
from cada_edge.runtime.run_options import RunOptions, RunStats, recent_rate
from cada_edge.runtime.source_ahead import ReadAheadSource
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.source_names import SourceNames
from cada_edge.runtime.sources import open_source, source_name
from cada_edge.runtime.stream_events import (
    OnStatus,
    StatusEvent,
    Throttle,
    make_event,
    rename_event,
    tell,
)

if TYPE_CHECKING:
    from cada_edge.runtime.batches import InferredBatch, PreparedBatch
    from cada_edge.runtime.detector import Detector

__all__ = ["OnResult", "Run"]

_log = logging.getLogger(__name__)

OnResult = Callable[[Detection, Frame], None]
"""Called with a detection and the frame that it is about. What it raises ends the run."""

_RECENT = 1000
"""Latest results that the percentiles and the rate are of; see `RunStats`."""


class Run:
    """A running inspection; a context manager that stops and joins.

    A KeyboardInterrupt that comes when it was already told to stop ends the block at once, without joining.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Sequence[Any],
        *,
        on_result: OnResult | None = None,
        on_status: OnStatus | None = None,
        options: RunOptions | None = None,
    ) -> None:
        """Open the sources and begin; see `cada_edge.runtime.detector.Detector.run`."""
        self._options = options or RunOptions()
        if not sources:
            raise SourceError("No source came; wanted at least one. Pass detector.run('rtsp://camera/1').")
        self._detector = detector
        self._on_result = on_result
        self._listener = on_status
        self._changed = threading.Condition()
        self._state = threading.Lock()
        self._error: BaseException | None = None
        self._ended_s: float | None = None
        self._inspected = self._anomalous = 0
        self._refused: Counter[str] = Counter()
        self._refused_events: dict[str, Throttle] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._started_s = time.monotonic()
        self._prepared: Handoff[tuple[PreparedBatch, list[Frame]]] = Handoff()
        self._inferred: Handoff[tuple[InferredBatch, list[Frame]]] = Handoff()
        self._live: set[str] = set()
        self._dropped_before_refused: Counter[str] = Counter()
        self._names = SourceNames()
        self._sources: dict[str, BufferedSource] = {}
        self._open(sources)
        self._batches = FairBatches(
            self._sources,
            self._changed,
            batch=self._options.batch,
            batch_timeout_s=self._options.batch_timeout_s,
            names=self._names,
        )
        try:
            detector.lend()
        except BaseException:
            _abandon(self._sources.values())
            raise
        self._threads = [
            threading.Thread(target=work, name=f"cada-edge {name}", daemon=True)
            for name, work in (("prepare", self._prepare), ("infer", self._infer), ("deliver", self._deliver))
        ]
        for thread in self._threads:
            thread.start()

    def _open(self, sources: Sequence[Any]) -> None:
        options = self._options
        try:
            for source in sources:
                name = self._names.add(source_name(source))
                found = open_source(
                    source,
                    source_id=name,
                    on_error=options.on_error,
                    policy=options.policy,
                    capacity=options.capacity,
                    camera=options.camera,
                    reconnect=options.reconnect,
                    on_status=self._listener_of(name),
                    changed=self._changed,
                )
                if isinstance(found, LiveSource):
                    self._live.add(name)
                if isinstance(source, BufferedSource):
                    # Its own policy holds: a second buffer behind it would let its frames grow old.
                    source.buffer.notify_also(self._changed)
                    if self._listener is not None:
                        source.listen(self._listener_of(name))
                if not isinstance(found, BufferedSource):
                    found = ReadAheadSource(
                        found,
                        policy=options.policy or "block",
                        capacity=options.capacity,
                        on_status=self._listener_of(name),
                        changed=self._changed,
                    )
                self._sources[name] = found
        except BaseException:
            _abandon(self._sources.values())
            raise

    def _listener_of(self, name: str) -> OnStatus:
        """Return a listener that tells of a source by its name in this run, which it may not know."""
        return lambda event: self._tell(rename_event(event, self._called(name)))

    def _called(self, name: str) -> str:
        """Return the name under which a source is counted; its frames may bring one."""
        source = self._sources.get(name)
        waiting = None if source is None else source.buffer.peek()
        if source is not None and waiting is not None:
            self._names.of_frame(name, waiting.source_id, source.source_id)
        return self._names.of_source(name)

    @property
    def stats(self) -> RunStats:
        """How it goes now."""
        with self._state:
            recent = list(self._recent)
            figures = self._inspected, self._anomalous, self._refused.total()
        latency_ms = {}
        if recent:
            latencies = np.array([latency for _, latency in recent])
            p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
            latency_ms = {
                "p50": float(p50),
                "p95": float(p95),
                "p99": float(p99),
                "max": float(latencies.max()),
            }
        now = self._ended_s or time.monotonic()
        return RunStats(
            sources={self._called(name): source.counts for name, source in self._sources.items()},
            inspected=figures[0],
            anomalous=figures[1],
            refused=figures[2],
            seconds=now - self._started_s,
            frames_per_second=recent_rate([came for came, _ in recent], now),
            latency_ms=latency_ms,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it still inspects."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def is_paused(self) -> bool:
        """Whether it takes no frames until `resume`."""
        return self._batches.is_paused

    def pause(self) -> None:
        """Take no more frames until `resume`: live sources go on dropping, files wait."""
        self._batches.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._batches.resume()

    def stop(self) -> None:
        """Take no more frames; those that were taken still get their verdict. Harmless when called twice.

        It does not wait: `join` does.
        """
        self._batches.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every source has ended or the run was stopped, and every verdict was delivered.

        Args:
            timeout_s: Longest wait, in seconds; None for no limit.

        Returns:
            Whether it has ended.

        Raises:
            Exception: What ended the run, of a source, the model or the listener.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            # Python takes no signal while it waits without a limit on some systems: Ctrl-C must come through.
            while thread.is_alive() and (deadline is None or time.monotonic() < deadline):
                thread.join(0.2 if deadline is None else max(0.0, min(0.2, deadline - time.monotonic())))
        if self.is_alive:
            return False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_stopping = self._batches.is_stopping
        self.stop()
        if kind is None:
            self.join()
            return
        if was_stopping and issubclass(kind, KeyboardInterrupt):
            # A second Ctrl-C: whoever gives it will not wait for a listener that hangs.
            return
        try:
            self.join()
        except Exception:
            # The error that is on its way matters more; this one may well be its consequence.
            _log.exception("The run ended with an error of its own")

    def _tell(self, event: StatusEvent) -> None:
        tell(self._listener, event)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do a part of a stage's work; whatever it raises ends the run, and the first error is kept.

        The stages before it stop, those after it finish what they have.
        """
        try:
            work()
        except BaseException as error:
            with self._state:
                first, self._error = self._error, self._error or error
            if first is not None:
                _log.error("The run that had failed failed once more at its end", exc_info=error)
            self.stop()

    def _prepare(self) -> None:
        """Take frames in fair batches and make them what the model takes."""
        self._guarded(self._prepare_batches)
        self._guarded(lambda: close_all(self._sources.values()))
        self._prepared.finish()

    def _prepare_batches(self) -> None:
        # A frame is taken when there is room for it, and not before: it would only grow old in our hands.
        while self._prepared.wait_for_room() and (frames := self._batches.take()) is not None:
            frames = [self._with_earlier_drops(frame) for frame in frames]
            try:
                prepared = self._detector.prepare(frames)
            except FrameError:
                frames = self._without_refused(frames)
                if not frames:
                    continue
                prepared = self._detector.prepare(frames)
            if not self._prepared.put((prepared, frames)):
                return
        if self._batches.lost is not None:
            raise self._batches.lost

    def _with_earlier_drops(self, frame: Frame) -> Frame:
        """Add what was dropped before refused frames of its source: no result of theirs tells it."""
        dropped = self._dropped_before_refused.pop(frame.source_id, 0)
        if not dropped:
            return frame
        return dataclasses.replace(frame, dropped_before=frame.dropped_before + dropped)

    def _without_refused(self, frames: list[Frame]) -> list[Frame]:
        """Leave out live frames that the model cannot take; of anything else it ends the run.

        The frames before that one, and those of other sources, still get their verdict.
        """
        kept: list[Frame] = []
        ended: set[str] = set()
        for frame in frames:
            if frame.source_id in ended:
                continue
            frame = self._with_earlier_drops(frame)
            try:
                self._detector.prepare([frame])
                kept.append(frame)
            except FrameError as error:
                if frame.path is not None or frame.source_id not in self._live:
                    ended.add(frame.source_id)
                    self._batches.fail(error)
                    continue
                self._dropped_before_refused[frame.source_id] += frame.dropped_before
                with self._state:
                    self._refused[frame.source_id] += 1
                self._tell_refused(frame, error)
        return kept

    def _tell_refused(self, frame: Frame, error: FrameError) -> None:
        if self._refused_events.setdefault(frame.source_id, Throttle()).passes():
            self._tell(
                make_event(
                    "refused",
                    frame.source_id,
                    f"Frame {frame.index} of {frame.source_id} cannot be inspected: {error}",
                    index=frame.index,
                    refused=self._refused[frame.source_id],
                )
            )

    def _infer(self) -> None:
        """Run the model; a detector that was lent is opened and closed here."""
        self._guarded(self._infer_batches)
        self._prepared.close()
        self._guarded(self._detector.give_back)
        self._inferred.finish()

    def _infer_batches(self) -> None:
        if self._options.batch > 1:
            self._detector.warm_up(self._options.batch)
        while (item := self._prepared.take()) is not None:
            prepared, frames = item
            if not self._inferred.put((self._detector.infer(prepared), frames)):
                return

    def _deliver(self) -> None:
        """Give the verdicts, in order."""
        self._guarded(self._deliver_batches)
        self._inferred.close()
        self._ended_s = time.monotonic()

    def _deliver_batches(self) -> None:
        while (item := self._inferred.take()) is not None:
            inferred, frames = item
            for detection, frame in zip(self._detector.finish(inferred), frames, strict=True):
                now = time.monotonic()
                with self._state:
                    self._inspected += 1
                    self._anomalous += detection.is_anomalous is True
                    self._recent.append((now, (now - frame.captured_monotonic_s) * 1e3))
                if self._on_result is not None:
                    self._on_result(detection, frame)


def _abandon(sources: Collection[BufferedSource]) -> None:
    """Close the sources of a run that does not begin: why it does not matters more than what they raise."""
    try:
        close_all(sources)
    except Exception:  # broad: it may be what an application's generator raises
        _log.exception("Closing the sources of a run that did not begin failed")
