"""What the page knows of a run: the newest frame of each source, its scores, events, rejects not yet drawn.

Verdicts and events come from the run's threads, questions from the page's thread. A verdict costs the
inspection a few numbers and two references: no copy of the frame is made, which the source must therefore not
write to afterwards (as for `cada_edge.InspectionLog`).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cada_edge.runtime.detection import Detection
from cada_edge.runtime.page_trace import SPANS_S, ScoreTrace
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import StatusEvent

if TYPE_CHECKING:
    from cada_edge.runtime.run import Run

__all__ = ["PageState", "Shot", "verdict"]

_EVENTS = 100
"""Latest events that are kept."""

_PENDING_REJECTS = 8
"""Rejects that wait to be drawn: 50 MB of 1080p frames; of more the oldest stay without a picture."""

_MOST_SOURCES = 64
"""A listener that makes up names must not fill the memory."""

_STATUS = {
    "opened": "waiting",
    "lost": "lost",
    "stalled": "lost",
    "retrying": "lost",
    "gave_up": "gave_up",
    "ended": "ended",
}
"""Kind of an event -> what the source is from then on; "live" needs a frame that was captured later."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A verdict with its frame."""

    number: int
    """Of the source's verdicts, from 1; of a reject, of all rejects."""
    source: int
    """Position of the source on the page."""
    detection: Detection
    """The verdict."""
    frame: Frame
    """What it is about."""


@dataclass(slots=True)
class _Source:
    position: int
    name: str
    status: str = "waiting"
    message: str = ""
    retry_at_s: float | None = None
    status_at_s: float = 0.0
    status_monotonic_s: float = float("-inf")
    inspected: int = 0
    anomalous: int = 0
    shot: Shot | None = None
    last_reject_at_s: float | None = None
    traces: dict[str, ScoreTrace] = field(
        default_factory=lambda: {
            span: ScoreTrace(span_s=float(span), bin_s=bin_s) for span, bin_s in SPANS_S.items()
        }
    )


class PageState:
    """Collects from the run, answers to the page; every method from any thread."""

    def __init__(self) -> None:
        self.inspection = secrets.token_hex(8)
        """Name of this start: another one counts its frames and rejects from 1 again."""
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}
        self._events: deque[StatusEvent] = deque(maxlen=_EVENTS)
        self._event_counts: Counter[str] = Counter()
        self._pending: deque[Shot] = deque()
        self._inspected = self._anomalous = self._undrawn = self._latencies = 0
        self._latency_s = 0.0
        self._run: Run | None = None

    def put(self, detection: Detection, frame: Frame) -> None:
        """Take a verdict."""
        now = time.monotonic()
        with self._lock:
            source = self._source(frame.source_id)
            if source is None:
                return
            is_anomalous = detection.is_anomalous is True
            self._inspected += 1
            self._latencies += 1
            self._latency_s += now - frame.captured_monotonic_s
            source.inspected += 1
            source.shot = Shot(source.inspected, source.position, detection, frame)
            for trace in source.traces.values():
                trace.add(now, detection.score, is_anomalous=is_anomalous)
            if source.status != "live" and frame.captured_monotonic_s >= source.status_monotonic_s:
                # One that was captured before the loss, and waited, does not make the source live again.
                source.status, source.message, source.status_at_s = "live", "", frame.captured_at_s
                source.retry_at_s = None
                source.status_monotonic_s = frame.captured_monotonic_s
            if is_anomalous:
                self._anomalous += 1
                source.anomalous += 1
                source.last_reject_at_s = frame.captured_at_s
                self._pending.append(Shot(self._anomalous, source.position, detection, frame))
                if len(self._pending) > _PENDING_REJECTS:
                    self._pending.popleft()
                    self._undrawn += 1

    def tell(self, event: StatusEvent) -> None:
        """Take an event."""
        with self._lock:
            self._events.append(event)
            self._event_counts[event.kind] += 1
            status = _STATUS.get(event.kind)
            source = None if status is None else self._source(event.source_id)
            if status is None or source is None:
                return
            if event.kind == "retrying":
                # Why it was lost stays the message.
                source.retry_at_s = event.at_s + float(event.data.get("delay_s", 0.0))
            else:
                source.message, source.retry_at_s = str(event.data.get("reason", event.message)), None
            if status != source.status:
                source.status, source.status_at_s = status, event.at_s
                source.status_monotonic_s = event.monotonic_s

    def watch(self, run: Run) -> None:
        """Take the counts of frames and the latencies from a run."""
        names = list(run.stats.sources)
        with self._lock:
            self._run = run
            for name in names:
                self._source(name)

    def _source(self, name: str) -> _Source | None:
        found = self._sources.get(name)
        if found is None and len(self._sources) < _MOST_SOURCES:
            found = self._sources[name] = _Source(len(self._sources), name)
        return found

    def newest(self) -> list[Shot]:
        """List the newest verdict of each source that has one."""
        with self._lock:
            return [source.shot for source in self._sources.values() if source.shot is not None]

    def take_reject(self) -> Shot | None:
        """Take the oldest reject that waits to be drawn."""
        with self._lock:
            return self._pending.popleft() if self._pending else None

    def trace(self, span: str) -> dict[str, Any]:
        """Return the scores of every source over a span, one of `page_trace.SPANS_S`.

        Raises:
            KeyError: Another span.
        """
        now = time.monotonic()
        bin_s = SPANS_S[span]
        with self._lock:
            bins = {source.name: source.traces[span].since(now) for source in self._sources.values()}
        return {"span_s": float(span), "bin_s": bin_s, "sources": bins}

    def snapshot(self) -> dict[str, Any]:
        """Return how everything is now, in types that `json` takes."""
        run = self._run
        stats = None if run is None else run.stats
        now_s, monotonic_s = time.time(), time.monotonic()
        with self._lock:
            sources = [_describe(source, monotonic_s) for source in self._sources.values()]
            figures: dict[str, Any] = {
                "inspected": self._inspected,
                "anomalous": self._anomalous,
                "rejects_without_picture": self._undrawn,
                "latency": {"count": self._latencies, "sum_s": self._latency_s},
                "events": [event.to_dict() for event in reversed(self._events)],
                "event_counts": dict(self._event_counts),
            }
        for source in sources:
            counts = None if stats is None else stats.sources.get(source["name"])
            source["counts"] = None if counts is None else counts.to_dict()
        running = "waiting" if run is None and not figures["inspected"] else "running"
        if run is not None and run.is_paused:
            running = "paused"
        return {
            "inspection": self.inspection,
            "now_s": now_s,
            "run": "ended" if run is not None and not run.is_alive else running,
            "seconds": None if stats is None else stats.seconds,
            "frames_per_second": None if stats is None else stats.frames_per_second,
            "refused": None if stats is None else stats.refused,
            "latency_ms": {} if stats is None else dict(stats.latency_ms),
            "sources": sources,
            **figures,
        }


def _describe(source: _Source, monotonic_s: float) -> dict[str, Any]:
    shot = source.shot
    found: dict[str, Any] = {
        "name": source.name,
        "position": source.position,
        "status": source.status,
        "message": source.message,
        "retry_at_s": source.retry_at_s,
        "status_at_s": source.status_at_s or None,
        "inspected": source.inspected,
        "anomalous": source.anomalous,
        "last_reject_at_s": source.last_reject_at_s,
        "last": None,
    }
    if shot is not None:
        found["last"] = {
            "number": shot.number,
            "frame": shot.frame.index,
            "captured_at_s": shot.frame.captured_at_s,
            "age_s": max(0.0, monotonic_s - shot.frame.captured_monotonic_s),
            **verdict(shot.detection),
        }
    return found


def verdict(detection: Detection) -> dict[str, Any]:
    """Return what a person is told of a detection."""
    return {
        "score": detection.score,
        "threshold": detection.threshold,
        "is_anomalous": detection.is_anomalous,
        "dropped_before": detection.dropped_before,
    }
