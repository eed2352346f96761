"""Frames of a video file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.images import IMAGE_SUFFIXES
from cada_edge.runtime.preprocess import load_cv2
from cada_edge.runtime.source_base import Frame, OnError, Source, stamp

__all__ = ["VideoSource"]

_COUNT_TOLERANCE = 0.01
"""Share of its frames by which a sound video may fall short of its own count: some containers round it from
duration and rate. Never below two frames."""

_MAX_DAMAGED = 250
"""Failed grabs in a row after which a video has ended. FFmpeg answers a damaged frame as it answers the end,
and only the frames behind it tell the two apart."""

_logger = logging.getLogger(__name__)


class VideoSource(Source):
    """Every frame of a video file, in order, decoded by OpenCV.

    A video that ends before the number of frames that it claims raises `SourceError` after its last whole
    frame, or with ``on_error="skip"`` logs a warning: the rest of a truncated recording is not inspected, and
    that must not look like a clean end.
    """

    lends_images = False

    def __init__(self, path: Path, *, source_id: str, on_error: OnError = "raise") -> None:
        super().__init__(source_id, on_error=on_error)
        self._cv2 = load_cv2("Reading videos")
        self._path = path
        # Absolute, so that FFmpeg takes no "name:" at the beginning for a protocol.
        self._capture: Any = self._cv2.VideoCapture(str(path.absolute()))
        self._ended = False
        if not self._capture.isOpened() or self._capture.getBackendName() == "CV_IMAGES":
            # CV_IMAGES would go on with the file of the next number in its name: frames nobody asked for.
            self._capture.release()
            raise SourceError(
                f"The file {path} ({path.stat().st_size} bytes) came; wanted a video that OpenCV can open, "
                f"or an image named as one ({', '.join(IMAGE_SUFFIXES)}). Rename an image; convert a video "
                "to .mp4 or .avi."
            )
        self._claimed = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        self._damaged = 0
        # The first frame is grabbed now, so that an empty video fails where it is opened.
        self._grabbed = self._grab()
        if not self._grabbed:
            self._capture.release()
            raise SourceError(
                f"The video {path} ({path.stat().st_size} bytes) opens but holds no whole frame; wanted at "
                "least one. It was cut short or its codec is unknown here: record it again or convert it."
            )

    @property
    def length(self) -> int | None:
        """Number of frames that the file claims to hold; None where it claims nothing."""
        return self._claimed if self._claimed > 0 else None

    def _read(self) -> Frame | ImageReadError | None:
        if self._ended:
            return None
        if not self._grabbed and not self._grab():
            self._end()
            return None
        image = None
        if self._damaged:
            self._grabbed = True
            self._damaged -= 1
        else:
            self._grabbed = False
            _, image = self._capture.retrieve()
        if image is None or image.size == 0:
            return ImageReadError(
                f"Frame {self._position} of the video {self._path} cannot be decoded; wanted a whole image. "
                "The file is damaged there: copy it again, or pass on_error='skip' to go on after it."
            )
        return stamp(image, self._position, self.source_id, self._path)

    def _grab(self) -> bool:
        """Grab the next frame that can be, and count in `_damaged` those before it; False at the end."""
        for self._damaged in range(_MAX_DAMAGED):
            if self._capture.grab():
                return True
            if 0 < self._claimed <= self._position:
                break
        self._damaged = 0
        return False

    def _end(self) -> None:
        self._ended = True
        self._capture.release()
        missing = self._claimed - self._position
        if missing <= 0:
            return
        if self._on_error == "raise" and missing > max(2, self._claimed * _COUNT_TOLERANCE):
            raise SourceError(
                f"The video {self._path} ended after {self._position} frames; wanted the {self._claimed} "
                "that it claims to hold. It is truncated or damaged: copy it again, or pass on_error='skip' "
                "to accept what is there."
            )
        _logger.warning(
            "The video %s ended after %d frames and claims %d: it may be truncated",
            self._path,
            self._position,
            self._claimed,
        )

    def _release(self) -> None:
        self._capture.release()
