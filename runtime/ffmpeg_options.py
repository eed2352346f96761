"""What FFmpeg is told beside OpenCV's own parameters: OpenCV takes it from the environment, when it opens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cada_edge.errors import SourceError
from cada_edge.runtime.preprocess import load_cv2

__all__ = ["FFmpegOptions", "ffmpeg_options"]


_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_THREAD_SAFE = "OPENCV_FFMPEG_IS_THREAD_SAFE"
_AS_IF_UNSET = {_OPTIONS: "rtsp_flags;prefer_tcp", _THREAD_SAFE: "0"}
"""What OpenCV does where the variables are missing."""
_ERRORS_ALONE = 2
"""OpenCV's LOG_LEVEL_ERROR; warnings are 3."""


class FFmpegOptions:
    """Puts options there while streams are being opened: the first one sets them, the last takes them back.

    A variable is never deleted: it goes back to OpenCV's own choice. A camera that is away is opened again
    and again, and an environment that grows and shrinks meanwhile breaks whoever reads it without Python's
    lock: starting a program failed with "Bad address" (EFAULT). C's `setenv` puts another value in place.

    Streams that want the same are opened side by side, since one that hangs must hold up no other. OpenCV has
    a lock of its own around that, made for FFmpeg's forerunners, and leaves it out when it is told to:
    https://github.com/opencv/opencv/pull/23601. It warns of that at each opening, so its warnings are off
    meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._set: dict[str, str] = {}
        self._added: set[str] = set()
        self._log_level: int | None = None

    def prepare(self) -> None:
        """Add the variables, as OpenCV does without them.

        Best before there are other threads: what is added here gives the environment another place, while
        what is changed later does not.
        """
        with self._changed:
            missing = {name: each for name, each in _AS_IF_UNSET.items() if name not in os.environ}
            self._added.update(missing)
            os.environ.update(missing)

    @contextmanager
    def told(self, value: str, *, timeout_s: float) -> Iterator[None]:
        """Have it in the environment within the block; what the user has put there himself stays as it is.

        Args:
            value: The options.
            timeout_s: Longest wait for streams that are being opened with other ones, in seconds.

        Raises:
            SourceError: They took longer.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._set.get(_OPTIONS, value) == value, timeout_s):
                raise SourceError(
                    f"Other streams are being opened with {self._set[_OPTIONS]}, for more than {timeout_s:g} "
                    f"s; wanted {value}. Give all streams of a process the same rtsp_transport."
                )
            if self._users == 0:
                wanted = {_OPTIONS: value, _THREAD_SAFE: "1"}
                self._set = {name: each for name, each in wanted.items() if self._is_free(name)}
                self._added.update(self._set)
                os.environ.update(self._set)
                self._silence()
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    for name, each in self._set.items():
                        if os.environ.get(name) == each:
                            os.environ[name] = _AS_IF_UNSET[name]
                    self._set = {}
                    self._speak()
                    self._changed.notify_all()

    def _is_free(self, name: str) -> bool:
        """Whether no user has set it: it is missing, or as it was left here."""
        found = os.environ.get(name)
        return found is None or (name in self._added and found == _AS_IF_UNSET[name])

    def _silence(self) -> None:
        log = _log_of_opencv()
        if log is not None:
            level: int = log.getLogLevel()
            if level > _ERRORS_ALONE:
                log.setLogLevel(_ERRORS_ALONE)
                self._log_level = level

    def _speak(self) -> None:
        log, level = _log_of_opencv(), self._log_level
        self._log_level = None
        # What an application has set meanwhile stays.
        if log is not None and level is not None and log.getLogLevel() == _ERRORS_ALONE:
            log.setLogLevel(level)


def _log_of_opencv() -> Any:
    """Return what has OpenCV's getLogLevel and setLogLevel: a module in 5, itself in 4; None in neither."""
    cv2 = load_cv2("Reading cameras")
    places = (getattr(getattr(cv2, "utils", None), "logging", None), cv2)
    return next((place for place in places if hasattr(place, "setLogLevel")), None)


ffmpeg_options = FFmpegOptions()
"""Of this process, as its environment is."""
