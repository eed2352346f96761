"""The result for one frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, InputError
from cada_edge.runtime.preprocess import load_cv2

__all__ = ["Detection"]


_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Detection:
    """What the model says about one frame.

    Scores are aligned: 0 is the mean of the frame's own normal pixels as the model estimates it, 1 their
    maximum, on every product. Two detections are equal when all their fields are, the map pixel by pixel.

    Example:
        >>> import numpy as np
        >>> from cada_edge import Detection
        >>> anomaly_map = np.zeros((4, 4), np.float32)
        >>> anomaly_map[1, 2] = 1.5
        >>> Detection(score=1.25, raw_score=0.5, threshold=1.0, pixel_threshold=1.0, anomaly_map=anomaly_map)
        Detection(score=1.25, threshold=1, is_anomalous=True, anomaly_map=(4, 4))

    Raises:
        BackendError: A score or a pixel is NaN or infinite, which no sound model gives.
        InputError: The fields contradict each other, or the map has another dtype or shape.
    """

    score: float
    """Aligned score of the frame; higher is more anomalous."""

    raw_score: float
    """The same score before the alignment, in the model's own units: not comparable among products."""

    threshold: float | None = None
    """Aligned score above which a frame is anomalous; None when the model was never calibrated."""

    is_anomalous: bool | None = None
    """Whether the score is above the threshold (equal to it is normal); follows from the two, None without
    a threshold."""

    alignment_clamped: bool = False
    """Whether the estimated range of normal pixels was so small that the model's floor took its place."""

    anomaly_map: NDArray[np.float32] | None = None
    """float32 (S, S) at the model's input size, aligned and smoothed; None from a model that only scores."""

    pixel_threshold: float | None = None
    """Aligned value above which a pixel belongs to the mask; None when the model was never calibrated."""

    frame_index: int | None = None
    """Position of the frame in its source, from 0; None for an array that came without a source."""

    source_id: str | None = None
    """Name of the source; None for an array that came without one."""

    captured_at_s: float | None = None
    """Wall-clock time at which the frame was read, in seconds since 1970 (UTC)."""

    captured_monotonic_s: float | None = None
    """The same moment on `time.monotonic`'s clock, in seconds: for latencies, which a set clock spoils."""

    path: Path | None = None
    """File that the frame came from; None for frames that came from no file."""

    dropped_before: int = 0
    """Frames of the source that were captured and given up since the one whose result came before this."""

    backend: str | None = None
    """What computed it: engine, version and device, on a GPU also whether a CUDA graph ran; None for a result
    that was not computed by a detector."""

    timings_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds per stage (preprocess, inference, post) and in total; in a batch, of the whole batch. An
    engine on a GPU adds the parts of the inference by its own clock: host_to_device, compute and
    device_to_host."""

    def __post_init__(self) -> None:
        for name in ("score", "raw_score"):
            if not math.isfinite(getattr(self, name)):
                raise BackendError(
                    f"The model gave {name} = {getattr(self, name)}; wanted a finite number. "
                    "Check the model file with: cada-edge verify MODEL"
                )
        for name in ("threshold", "pixel_threshold"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise InputError(
                    f"{name} = {value} came; wanted a finite number, or None for no verdict. "
                    "Take one from: cada-edge calibrate MODEL IMAGES"
                )
        self._check_map()
        verdict = None if self.threshold is None else bool(self.score > self.threshold)
        if self.is_anomalous is not None and self.is_anomalous != verdict:
            raise InputError(
                f"is_anomalous = {self.is_anomalous} came with score = {self.score} and threshold = "
                f"{self.threshold}; wanted {verdict}. Leave is_anomalous out: it follows from the two."
            )
        object.__setattr__(self, "is_anomalous", verdict)

    def _check_map(self) -> None:
        anomaly_map = self.anomaly_map
        if anomaly_map is None:
            return
        if anomaly_map.dtype != _FLOAT32 or anomaly_map.ndim != 2 or anomaly_map.size == 0:
            raise InputError(
                f"An anomaly map of shape {anomaly_map.shape}, {anomaly_map.dtype} came; wanted "
                "float32 (S, S). Pass one map, not a batch, with anomaly_map.astype('float32')."
            )
        # NaN goes through both. No second array: that took as long as all else here, behind an inference.
        ends = np.maximum.reduce(anomaly_map, axis=None), np.minimum.reduce(anomaly_map, axis=None)
        if not all(map(math.isfinite, ends)):
            raise BackendError(
                f"The model gave an anomaly map with {int((~np.isfinite(anomaly_map)).sum())} NaN or "
                "infinite pixels; wanted finite numbers. Check the model file with: cada-edge verify MODEL"
            )

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Anomalous pixels, bool (S, S), computed at each access; None without a map or pixel threshold."""
        if self.anomaly_map is None or self.pixel_threshold is None:
            return None
        # In float64: NumPy would round the threshold to the map's float32, and a pixel could cross it.
        return np.asarray(self.anomaly_map.astype(np.float64) > self.pixel_threshold)

    @property
    def pred_score(self) -> float:
        """The score under anomalib's name."""
        return self.score

    @property
    def pred_label(self) -> bool | None:
        """The verdict under anomalib's name."""
        return self.is_anomalous

    @property
    def pred_mask(self) -> NDArray[np.bool_] | None:
        """The mask under anomalib's name."""
        return self.mask

    def anomaly_map_at(self, size_hw: tuple[int, int]) -> NDArray[np.float32]:
        """Resize the anomaly map for drawing: bilinearly, or by area where both axes shrink.

        Args:
            size_hw: Height and width wanted, in pixels.

        Returns:
            float32 (height, width), a new array.

        Raises:
            InputError: There is no map, or a side is below one pixel.
        """
        if self.anomaly_map is None:
            raise InputError(
                "This detection has no anomaly map; wanted one to resize. "
                "Test `detection.anomaly_map is not None` first, or export a model that gives maps."
            )
        height, width = size_hw
        if height < 1 or width < 1:
            raise InputError(
                f"A size of {height} x {width} pixels came; wanted (height, width), both at least 1. "
                "Pass frame.shape[:2]."
            )
        cv2 = load_cv2("Resizing anomaly maps")
        shrinks = height <= self.anomaly_map.shape[0] and width <= self.anomaly_map.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        source = np.ascontiguousarray(self.anomaly_map)
        return np.array(cv2.resize(source, (width, height), interpolation=interpolation), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return every field but the map in types that `json` takes; the path is a string."""
        return {
            "score": float(self.score),
            "raw_score": float(self.raw_score),
            "threshold": None if self.threshold is None else float(self.threshold),
            "is_anomalous": self.is_anomalous,
            "alignment_clamped": bool(self.alignment_clamped),
            "pixel_threshold": None if self.pixel_threshold is None else float(self.pixel_threshold),
            "frame_index": None if self.frame_index is None else int(self.frame_index),
            "source_id": self.source_id,
            "captured_at_s": None if self.captured_at_s is None else float(self.captured_at_s),
            "captured_monotonic_s": (
                None if self.captured_monotonic_s is None else float(self.captured_monotonic_s)
            ),
            "path": None if self.path is None else str(self.path),
            "dropped_before": int(self.dropped_before),
            "backend": self.backend,
            "timings_ms": {stage: float(value) for stage, value in self.timings_ms.items()},
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detection):
            return NotImplemented
        names = (each.name for each in fields(self))
        # array_equal compares what is no array as well, None with an array included.
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    # Equal by fields, of which the map and the timings can change: no hash.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = [f"score={self.score:.4g}"]
        if self.threshold is not None:
            parts += [f"threshold={self.threshold:.4g}", f"is_anomalous={self.is_anomalous}"]
        if self.alignment_clamped:
            parts.append("alignment_clamped=True")
        if self.frame_index is not None:
            parts.append(f"frame_index={self.frame_index}")
        if self.path is not None:
            parts.append(f"path={str(self.path)!r}")
        elif self.source_id is not None:
            parts.append(f"source_id={self.source_id!r}")
        if self.anomaly_map is not None:
            parts.append(f"anomaly_map={self.anomaly_map.shape}")
        if "total" in self.timings_ms:
            parts.append(f"total_ms={self.timings_ms['total']:.1f}")
        return f"Detection({', '.join(parts)})"
