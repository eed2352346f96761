"""Rendering of detections: heat-map, outline and verdict on the frame."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, InputError
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.preprocess import load_cv2, to_bgr

__all__ = ["draw", "heat_levels", "heatmap"]

_SCALE_HEADROOM = 1.5
"""Upper end of the colour scale, in pixel thresholds: what is just anomalous is two thirds up. Without a
threshold, in aligned units, of which 1 is the largest normal pixel."""

_RED, _GREEN, _GREY = (36, 28, 190), (60, 120, 30), (70, 70, 70)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_CAP_HEIGHT = 22
"""Height of capitals of OpenCV's simplex font at scale 1, in pixels."""

_MIN_CAP_HEIGHT = 7


def draw(
    frame: NDArray[Any],
    detection: Detection,
    *,
    opacity: float = 0.5,
    value_range: tuple[float, float] | None = None,
    show_text: bool = True,
) -> NDArray[np.uint8]:
    """Draw a detection on its frame.

    The heat-map covers the part the more, the hotter it is, so that normal regions stay as the camera saw
    them. Pixels above the pixel threshold are outlined. The banner says verdict, score and threshold; less on
    small frames, and nothing on those too small for any text. The frame itself is not changed.

    Args:
        frame: The frame that was inspected: what a detector takes, of any size.
        detection: Its result; without a map only the banner is drawn.
        opacity: How much of the frame the hottest colour covers, 0-1.
        value_range: Aligned values of the coldest and the hottest colour; by default 0 and 1.5 times the
            pixel threshold (1.5 without one), the same for every frame of a model, so that colours compare.
        show_text: Whether to draw the banner.

    Returns:
        uint8 (H, W, 3), BGR, of the frame's size; a new array.

    Raises:
        FrameError: The frame cannot be used.
        ConfigError: The opacity or the range is impossible.

    Example:
        >>> import numpy as np
        >>> from cada_edge import Detection, draw
        >>> detection = Detection(score=1.25, raw_score=0.5, threshold=1.0)
        >>> draw(np.zeros((480, 640), np.uint8), detection).shape
        (480, 640, 3)
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity={opacity} came; wanted a number from 0 to 1. Leave it out for 0.5.")
    cv2 = load_cv2("Drawing")
    canvas = to_bgr(frame)
    canvas = canvas.copy() if np.may_share_memory(canvas, frame) else canvas
    if value_range is None:
        value_range = _default_range(detection)
    low, high = _check_range(value_range)
    if detection.anomaly_map is not None:
        anomaly_map = detection.anomaly_map_at((canvas.shape[0], canvas.shape[1]))
        levels = _levels(anomaly_map, low, high)
        weights = np.linspace(0, opacity, 256, dtype=np.float32)
        colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
        canvas = cv2.blendLinear(colours, canvas, cv2.LUT(levels, weights), cv2.LUT(levels, 1 - weights))
        if detection.pixel_threshold is not None:
            _outline(cv2, canvas, anomaly_map > detection.pixel_threshold)
    if show_text:
        _banner(cv2, canvas, detection)
    return np.asarray(canvas, np.uint8)


def heatmap(anomaly_map: NDArray[np.floating[Any]], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Colour an anomaly map.

    The colours are OpenCV's INFERNO: equal steps of the value look equally large, brightness rises all the
    way (it survives a grey print and every kind of colour blindness), and no hue jumps where the value does
    not, as in JET or TURBO, where a false border looks like a defect's.

    Args:
        anomaly_map: float (H, W), finite.
        value_range: Values of the coldest and the hottest colour; what is beyond takes the end's colour.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        InputError: The map is no finite float (H, W).
        ConfigError: The range is empty or not finite.
    """
    low, high = _check_range(value_range)
    if anomaly_map.ndim != 2 or anomaly_map.size == 0 or not np.isfinite(anomaly_map).all():
        raise InputError(
            f"A map of shape {anomaly_map.shape}, {anomaly_map.dtype} came; wanted finite floats (H, W). "
            "Pass detection.anomaly_map, or anomaly_map_at for another size."
        )
    cv2 = load_cv2("Drawing")
    levels = _levels(anomaly_map, low, high)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)


def heat_levels(detection: Detection) -> tuple[NDArray[np.uint8] | None, int | None]:
    """Return a detection's map on the colour scale of `draw`, for whoever colours it elsewhere.

    Returns:
        Position on the scale, uint8 (S, S), None without a map; and the position of the pixel threshold,
        above which a pixel belongs to the mask, None without one or where the scale does not hold it.
    """
    if detection.anomaly_map is None:
        return None, None
    low, high = _default_range(detection)
    limit = detection.pixel_threshold
    is_on_scale = limit is not None and low <= limit < high
    level = round((limit - low) * 255 / (high - low)) if is_on_scale and limit is not None else None
    return _levels(detection.anomaly_map, low, high), level


def _levels(anomaly_map: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.uint8]:
    levels = np.clip((anomaly_map - low) * (255 / (high - low)), 0, 255)
    return np.asarray(np.rint(levels), np.uint8)


def _default_range(detection: Detection) -> tuple[float, float]:
    pixel_threshold = detection.pixel_threshold
    if pixel_threshold is None or pixel_threshold <= 0:
        return 0.0, _SCALE_HEADROOM
    return 0.0, _SCALE_HEADROOM * pixel_threshold


def _check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"value_range={value_range} came; wanted (low, high), finite, low below high. "
            "Leave it out for the range that fits the model's threshold."
        )
    return float(low), float(high)


def _outline(cv2: ModuleType, canvas: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Outline a mask in white within black: one of the two shows on every ground."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(min(canvas.shape[:2]) / 360))
    if min(canvas.shape[:2]) >= 200:
        cv2.drawContours(canvas, contours, -1, _BLACK, 3 * thickness, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, _WHITE, thickness, cv2.LINE_AA)


def _banner(cv2: ModuleType, canvas: NDArray[np.uint8], detection: Detection) -> None:
    """Draw the most telling text that is legible in the frame's width on a band at the top."""
    height, width = canvas.shape[:2]
    cap_height = max(_MIN_CAP_HEIGHT, 0.03 * min(height, width))
    scale = cap_height / _CAP_HEIGHT
    thickness = max(1, round(cap_height / 11))
    margin = max(2, round(0.6 * cap_height))
    band = round(cap_height) + 2 * margin
    if band > height / 3:
        return
    colour = {True: _RED, False: _GREEN, None: _GREY}[detection.is_anomalous]
    for text in _texts(detection):
        (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        if text_width + 2 * margin <= width:
            canvas[:band] = (0.2 * canvas[:band] + 0.8 * np.array(colour)).astype(np.uint8)
            origin = (margin, margin + round(cap_height))
            cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, thickness, cv2.LINE_AA)
            return


def _texts(detection: Detection) -> list[str]:
    """List what the banner may say, from most to least."""
    score, threshold = detection.score, detection.threshold
    if threshold is None:
        return [f"SCORE {score:.3g}, NO THRESHOLD", f"SCORE {score:.3g}", f"{score:.3g}"]
    # As many digits as it takes to tell the two apart.
    digits = next((n for n in range(3, 9) if f"{score:.{n}g}" != f"{threshold:.{n}g}"), 3)
    shown, limit = f"{score:.{digits}g}", f"{threshold:.{digits}g}"
    if detection.is_anomalous:
        return [f"ANOMALOUS {shown} > {limit}", f"ANOMALOUS {shown}", f"NG {shown}", "NG"]
    return [f"NORMAL {shown} <= {limit}", f"NORMAL {shown}", f"OK {shown}", "OK"]
