"""What is written down of each verdict: one flat row, the same in every kind of file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

from cada_edge.runtime.detection import Detection

__all__ = ["Record", "record_of"]


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict."""

    time: str
    """When the frame was captured: UTC, ISO 8601 with microseconds, as 2026-11-24T03:00:00.000000Z."""
    source: str
    """Name of its source, without secrets."""
    frame: int
    """Index of the frame in its source."""
    score: float
    """Aligned score."""
    raw_score: float
    """The same before the alignment."""
    threshold: float | None
    """Score above which it is anomalous; None for a model without one."""
    anomalous: bool | None
    """The verdict; None without a threshold."""
    dropped: int
    """Frames of the source that were given up since the verdict before this."""
    model_sha256: str
    """SHA-256 of the model file."""
    image: str | None
    """Path of the saved image, if there is one."""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the fields' names, in their order."""
        return tuple(each.name for each in fields(cls))

    def values(self) -> tuple[Any, ...]:
        """Return the fields' values, in the order of `columns`."""
        return tuple(getattr(self, name) for name in self.columns())


def record_of(detection: Detection, model_sha256: str, *, image: str | None = None) -> Record:
    """Make the record of a detection.

    Args:
        detection: Of a frame that came from a source.
        model_sha256: Of the model file, from its manifest.
        image: Path of the saved image.
    """
    captured = datetime.fromtimestamp(detection.captured_at_s or 0.0, timezone.utc)
    return Record(
        time=captured.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        source=_writable(detection.source_id or ""),
        frame=-1 if detection.frame_index is None else int(detection.frame_index),
        score=float(detection.score),
        raw_score=float(detection.raw_score),
        threshold=None if detection.threshold is None else float(detection.threshold),
        anomalous=detection.is_anomalous,
        dropped=int(detection.dropped_before),
        model_sha256=model_sha256,
        image=None if image is None else _writable(image),
    )


def _writable(text: str) -> str:
    """Replace what no UTF-8 file takes: a path's bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
