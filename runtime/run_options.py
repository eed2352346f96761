"""How a run takes its frames, and how it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cada_edge.errors import ConfigError
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.frame_buffer import DropPolicy
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.source_base import OnError
from cada_edge.runtime.stream_events import StreamCounts

__all__ = ["RunOptions", "RunStats"]


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


@dataclass(frozen=True)
class RunStats:
    """How a run goes, at one moment."""

    sources: dict[str, StreamCounts]
    """Name of a source -> what became of its frames; delivered: taken for inspection."""
    inspected: int
    """Frames with a verdict so far."""
    anomalous: int
    """Of those, anomalous ones."""
    refused: int
    """Frames of live sources that could not be inspected, as of another size than the model's fixed one."""
    seconds: float
    """Since the run began."""
    frames_per_second: float
    """Of the latest results, up to a thousand; 0 before the second."""
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
