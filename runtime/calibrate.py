"""Set a deployed model's threshold from normal images that it has not seen; only its manifest changes."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.errors import ConfigError, DatasetError, InputError
from cada_edge.files import sha256_file
from cada_edge.manifest import Calibration
from cada_edge.runtime.conformal import (
    DEFAULT_FALSE_ALARM_RATE,
    conformal_threshold,
    images_needed,
    to_calibration,
)
from cada_edge.runtime.dataset_layouts import detect_layout
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.sources import open_source

__all__ = ["CalibrationResult", "calibrate"]


@dataclass(frozen=True)
class CalibrationResult:
    """The new threshold and what it promises."""

    model: Path
    """The model file; its manifest was rewritten."""
    threshold: float
    """A score above it is anomalous."""
    pixel_threshold: float | None
    """A pixel above it is marked; None: the threshold."""
    calibration: Calibration
    """As the manifest now has it."""
    warning: str | None
    """What the threshold cannot promise, if anything."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """Return a few lines for people."""
        record = self.calibration
        lines = [
            f"threshold   {self.threshold:.4f} from {record.images} normal images",
            f"promise     at most {record.false_alarm_rate:.3%} false alarms wanted; "
            f"{record.images} images support {record.supported_false_alarm_rate:.3%} "
            f"({record.images_needed} are needed for the wanted rate)",
            f"interval    {record.interval_low:.3%} to {record.interval_high:.3%} (Clopper-Pearson, 95 %)",
        ]
        if self.pixel_threshold is not None:
            lines.append(f"pixels      marked above {self.pixel_threshold:.4f}")
        if self.warning:
            lines.append(f"warning     {self.warning}")
        return "\n".join(lines)


def calibrate(
    model_path: str | Path,
    images: Any,
    *,
    false_alarm_rate: float = DEFAULT_FALSE_ALARM_RATE,
    pixel_quantile: float | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> CalibrationResult:
    """Score normal images, set the threshold by split conformal prediction, and rewrite the manifest.

    The promise holds for images of this camera that the model was not trained on, not augmented, and not
    neighbours of training frames (the rule and its source: `cada_edge.runtime.conformal`).

    Args:
        model_path: The exported model.
        images: Normal images only: a folder, a glob, a video, or anything else that `open_source` takes.
        false_alarm_rate: Wanted rate, above 0 and below 1.
        pixel_quantile: Share of the normal images' pixels that the mask must leave unmarked, 0-1; None keeps
            the score's threshold for the pixels. All maps are held in memory: 4 bytes a pixel.
        backend: As for `Detector`.
        threads: As for `Detector`.

    Returns:
        The new threshold.

    Raises:
        InputError: No image, or one that cannot be read; the manifest stays as it was.
        ModelError: The model cannot be used.
        OutputError: The manifest cannot be written; the old one stays.
    """
    if pixel_quantile is not None and not 0 < pixel_quantile < 1:
        raise ConfigError(
            f"pixel_quantile {pixel_quantile} came; wanted more than 0 and less than 1. "
            "Pass --pixel-quantile 0.999 to mark one normal pixel in a thousand."
        )
    images_needed(false_alarm_rate)  # refuses an impossible rate before the images are scored
    _refuse_data_set(images)
    model_path = Path(model_path)
    scores: list[float] = []
    maps: list[Any] = []
    fingerprint = hashlib.sha256()
    hashed: set[Path] = set()
    # A threshold of its own: the one being replaced is of no use here, nor is the warning that there is none.
    with Detector(model_path, backend=backend, threads=threads, threshold=0.0) as detector:
        scored = detector.manifest
        with open_source(images) as frames:
            for frame in frames:
                detection = detector(frame)
                scores.append(detection.score)
                if frame.path is not None and frame.path not in hashed:
                    # A video is one file of many frames.
                    hashed.add(frame.path)
                    name = frame.path.name.encode("utf-8", "surrogateescape")
                    fingerprint.update(name + f" {sha256_file(frame.path)}\n".encode())
                if pixel_quantile is not None:
                    maps.append(detection.anomaly_map)
        if not scores:
            raise InputError(f"No image came from {images}; wanted normal images to calibrate with.")
    result = conformal_threshold(scores, false_alarm_rate)
    calibration = to_calibration(result, source=_describe(images), data_fingerprint=fingerprint.hexdigest())
    pixel_threshold = None if pixel_quantile is None else float(np.quantile(np.stack(maps), pixel_quantile))
    manifest = scored.reread(model_path)
    dataclasses.replace(
        manifest, threshold=result.threshold, pixel_threshold=pixel_threshold, calibration=calibration
    ).write(model_path)
    return CalibrationResult(model_path, result.threshold, pixel_threshold, calibration, result.warning)


def _describe(images: Any) -> str:
    return str(images) if isinstance(images, (str, Path)) else f"frames of a {type(images).__name__}"


def _refuse_data_set(images: Any) -> None:
    """Refuse the root of a data set: its defects, and even its masks, would count as normal."""
    if not isinstance(images, (str, Path)) or not Path(images).is_dir():
        return
    try:
        layout = detect_layout(Path(images))
    except DatasetError:
        return
    raise InputError(
        f"{images} is a whole data set ({layout} layout), with anomalous images or masks below it; wanted "
        "normal images only. Pass a folder of them, as its normal/ or train/good/."
    )
