"""What FFmpeg is told beside OpenCV's own parameters: OpenCV takes it from the environment, when it opens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cada_edge.errors import SourceError

__all__ = ["FFmpegOptions", "ffmpeg_options"]


_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_THREAD_SAFE = "OPENCV_FFMPEG_IS_THREAD_SAFE"


class FFmpegOptions:
    """Puts options there while streams are being opened: the first one sets them, the last one deletes them.

    Streams that want the same are opened side by side, since one that hangs must hold up no other. OpenCV has
    a lock of its own around that, made for FFmpeg's forerunners, and leaves it out when it is told to:
    https://github.com/opencv/opencv/pull/23601
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._set: dict[str, str] = {}

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
                self._set = {name: each for name, each in wanted.items() if name not in os.environ}
                os.environ.update(self._set)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    for name, each in self._set.items():
                        if os.environ.get(name) == each:
                            del os.environ[name]
                    self._set = {}
                    self._changed.notify_all()


ffmpeg_options = FFmpegOptions()
"""Of this process, as its environment is."""
