"""How a run takes its frames, and how it goes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cada_edge.errors import ConfigError
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.frame_buffer import DropPolicy
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.source_base import OnError
from cada_edge.runtime.stream_events import StreamCounts

__all__ = ["RunOptions", "RunStats", "recent_rate"]

_RATE_S = 5.0
"""Span that `recent_rate` is of."""


@dataclass(frozen=True)
class RunOptions:
    """How a run takes its frames."""

    batch: int = 1
    """Most frames in one inference, at least 1; within the limits of a ``.engine``."""
    batch_timeout_s: float = 0.005
    """Longest time that a batch waits for more frames once it has one, in seconds. Where waits bring nothing,
    as with cameras that are not triggered together, only one batch in 17 waits."""
    policy: DropPolicy | None = None
    """Of all sources; None: "latest" for live ones, "block" for all others."""
    capacity: int = 1
    """Most frames of a source that wait, with "block" and "drop-oldest"."""
    on_error: OnError = "raise"
    """What an unreadable file does, as in `cada_edge.open_source`; live sources always go on."""
    camera: CameraOptions = field(default_factory=CameraOptions)
    """How live sources are opened."""
    reconnect: Reconnect = field(default_factory=Reconnect)
    """How they are opened again."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"A batch of {self.batch} frames came; wanted at least 1. Pass batch=1.")
        if self.batch_timeout_s < 0:
            raise ConfigError(f"batch_timeout_s {self.batch_timeout_s} came; wanted 0 or more seconds.")


def recent_rate(times_s: Sequence[float], now_s: float) -> float:
    """Return the results a second of late; it falls while none come.

    Args:
        times_s: When each result came, ascending, in seconds.
        now_s: The moment of which it is, on the same clock.
    """
    if len(times_s) < 2:
        return 0.0
    # From the last result before the span, so that intervals are counted whole.
    first = min(max(bisect_right(times_s, now_s - _RATE_S) - 1, 0), len(times_s) - 2)
    intervals, began_s = len(times_s) - 1 - first, times_s[first]
    lasted_s = times_s[-1] - began_s
    # The interval that goes on counts where it is longer than those before it.
    longest_s = max(lasted_s, (now_s - began_s) * intervals / (intervals + 1))
    return intervals / longest_s if longest_s > 0 else 0.0


@dataclass(frozen=True)
class RunStats:
    """How a run goes, at one moment."""

    sources: dict[str, StreamCounts]
    """Name of a source, as in its results -> what became of its frames; delivered: taken for inspection. One
    without a name of its own has that of its frames from the first on."""
    inspected: int
    """Frames with a verdict so far."""
    anomalous: int
    """Of those, anomalous ones."""
    refused: int
    """Frames of live sources that could not be inspected, as of another size than the model's fixed one."""
    seconds: float
    """Since the run began."""
    frames_per_second: float
    """Of the results of the last five seconds, or the last two where they are further apart; falls while none
    come, up to the run's end; 0 before the second."""
    latency_ms: dict[str, float]
    """p50, p95, p99 and max from capture to verdict, of the latest results; empty before the first."""

    def to_dict(self) -> dict[str, Any]:
        """Return every field in types that `json` takes."""
        return {
            "sources": {name: counts.to_dict() for name, counts in self.sources.items()},
            "inspected": self.inspected,
            "anomalous": self.anomalous,
            "refused": self.refused,
            "seconds": self.seconds,
            "frames_per_second": self.frames_per_second,
            "latency_ms": dict(self.latency_ms),
        }
