"""Pictures for the page: a frame and its heat-map apart, so that the page itself lays one over the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import OutputError
from cada_edge.runtime.draw import draw, heat_levels
from cada_edge.runtime.page_state import PageState, Shot, verdict
from cada_edge.runtime.preprocess import load_cv2, to_bgr

__all__ = ["PictureDesk", "draw_live", "draw_reject"]

_LIVE_SIDE, _REJECT_SIDE, _THUMB_SIDE = 1280, 1920, 360
"""Longest side of a picture, in pixels; larger frames are shrunk."""

_LIVE_QUALITY, _REJECT_QUALITY = 80, 92

_SHARE_OF_TIME = 0.05
"""Of one core that drawing may take in the long run; what comes faster is not shown."""

_LEAST_INTERVAL_S = 0.1
"""Between two pictures of a source: ten a second look alive."""


@dataclass(frozen=True)
class Drawn:
    """What goes to the page's process."""

    head: dict[str, Any]
    """What it shows, and what the parts are, in order."""
    parts: list[bytes]
    """A JPEG of the frame, the heat-map's levels as a grey PNG where there is a map, and a thumbnail."""


class PictureDesk:
    """Draws pictures when the page asks, and never more of them than their share of the machine allows."""

    def __init__(self, state: PageState) -> None:
        self._state = state
        self._due_s = 0.0
        self._drawn_at_s: dict[int, float] = {}

    def live(self, have: Mapping[str, int]) -> Drawn | None:
        """Draw the newest frame of the source that has waited longest; None when none is due.

        Args:
            have: Position of a source -> number of its frame that the page has.
        """
        now = time.monotonic()
        if now < self._due_s:
            return None
        ready = []
        for shot in self._state.newest():
            at_s = self._drawn_at_s.get(shot.source, 0.0)
            if shot.number != have.get(str(shot.source)) and now - at_s >= _LEAST_INTERVAL_S:
                ready.append((at_s, shot))
        if not ready:
            return None
        shot = min(ready, key=lambda each: each[0])[1]
        self._drawn_at_s[shot.source] = now
        try:
            return draw_live(shot)
        finally:
            self._charge(now)

    def reject(self) -> Drawn | None:
        """Draw the oldest reject that waits; None when there is none, or none is due."""
        now = time.monotonic()
        if now < self._due_s:
            return None
        shot = self._state.take_reject()
        if shot is None:
            return None
        try:
            return draw_reject(shot)
        finally:
            self._charge(now)

    def _charge(self, began_s: float) -> None:
        now = time.monotonic()
        self._due_s = now + (now - began_s) * (1 / _SHARE_OF_TIME - 1)


def draw_live(shot: Shot) -> Drawn:
    """Draw a frame as it comes."""
    image = _fit(to_bgr(shot.frame.image), _LIVE_SIDE)
    return _with_map(shot, image, [_jpeg(image, _LIVE_QUALITY)])


def draw_reject(shot: Shot) -> Drawn:
    """Draw a frame that is kept: larger, and with a thumbnail that has the heat-map in it."""
    image = _fit(to_bgr(shot.frame.image), _REJECT_SIDE)
    small = draw(_fit(image, _THUMB_SIDE), shot.detection, show_text=False)
    return _with_map(shot, image, [_jpeg(image, _REJECT_QUALITY), _jpeg(small, _LIVE_QUALITY)])


def _with_map(shot: Shot, image: NDArray[np.uint8], parts: list[bytes]) -> Drawn:
    levels, limit = heat_levels(shot.detection)
    head = {
        "number": shot.number,
        "source": shot.source,
        "name": shot.frame.source_id,
        "frame": shot.frame.index,
        "captured_at_s": shot.frame.captured_at_s,
        "width": image.shape[1],
        "height": image.shape[0],
        "limit_level": limit,
        "has_map": levels is not None,
        **verdict(shot.detection),
    }
    if levels is not None:
        cv2 = load_cv2("The page")
        # The maps are smooth: the fastest level is hardly larger than the slowest.
        parts = [*parts, _encoded(".png", levels, [cv2.IMWRITE_PNG_COMPRESSION, 1])]
    return Drawn(head, parts)


def _fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink an image whose longer side is longer."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    cv2 = load_cv2("The page")
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    cv2 = load_cv2("The page")
    return _encoded(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encoded(kind: str, image: NDArray[np.uint8], options: list[int]) -> bytes:
    cv2 = load_cv2("The page")
    encoded, data = cv2.imencode(kind, np.ascontiguousarray(image), options)
    if not encoded:
        raise OutputError(
            f"OpenCV made no {kind} of an image of shape {image.shape}; wanted a picture for the page. "
            "Look at what the source gives."
        )
    return bytes(data)
