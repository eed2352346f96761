"""What every source of frames has in common."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ClosedError, ConfigError, ImageReadError
from cada_edge.runtime.images import read_image
from cada_edge.runtime.stream_events import StreamCounts

__all__ = ["Frame", "OnError", "Source", "read_frame", "stamp"]

OnError = Literal["raise", "skip"]
"""What a source does with a frame that cannot be read."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Frame:
    """One image with where and when it came from."""

    image: NDArray[Any]
    """Image as the source gave it; from files uint8 (H, W, 3), BGR. What else a detector takes is in
    `cada_edge.runtime.preprocess.to_bgr`."""

    index: int
    """Position in the source, from 0; a frame that was skipped leaves a gap."""

    source_id: str
    """Name of the source. In a run it is the one by which that tells its sources apart."""

    captured_at_s: float
    """Wall-clock time at which the frame was read, in seconds since 1970 (UTC)."""

    captured_monotonic_s: float
    """The same moment on `time.monotonic`'s clock, in seconds."""

    path: Path | None = None
    """File that the image or video is in; None for frames that came from no file."""

    dropped_before: int = 0
    """Frames of this source that were captured and given up since the one handed out before this."""

    def __post_init__(self) -> None:
        # A camera's SDK counts in NumPy's or ctypes' numbers, which neither JSON nor SQLite takes.
        for name, kind in (("index", int), ("captured_at_s", float), ("captured_monotonic_s", float)):
            value = getattr(self, name)
            if type(value) is not kind:
                object.__setattr__(self, name, kind(value))

    def __repr__(self) -> str:
        shape = f"{self.image.shape} {self.image.dtype}" if isinstance(self.image, np.ndarray) else "?"
        return f"Frame({shape}, index={self.index}, source_id={self.source_id!r})"


def stamp(image: NDArray[Any], index: int, source_id: str, path: Path | None) -> Frame:
    """Make a frame that is captured now."""
    return Frame(image, index, source_id, time.time(), time.monotonic(), path)


def read_frame(path: Path, index: int, source_id: str) -> Frame | ImageReadError:
    """Read an image file as a frame; return the error if that fails."""
    try:
        return stamp(read_image(path), index, source_id, path)
    except ImageReadError as error:
        return error


class Source(ABC):
    """Frames, one at a time: an iterator that passes once, and a context manager.

    Nothing is read before it is asked for and no frame is kept, so that a source may be longer than memory.
    After an `ImageReadError` the next frame can still be asked for. One thread at a time.
    """

    lends_images: bool = True
    """Whether an image may be written to when the next frame is asked for: who keeps it copies it before. A
    source that makes a new array for every frame says False."""

    def __init__(self, source_id: str, *, on_error: OnError = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError(
                f"on_error={on_error!r} came; wanted 'raise' or 'skip'. Pass on_error='skip' to go on "
                "after a frame that cannot be read."
            )
        self._source_id = source_id
        self._on_error = on_error
        self._delivered = 0
        self._corrupt = 0
        self._closed = False
        self.on_skip: Callable[[int], None] | None = None
        """Called with the index of each frame that cannot be read and is skipped."""

    @property
    def source_id(self) -> str:
        """Name that every frame carries."""
        return self._source_id

    @property
    def length(self) -> int | None:
        """Number of frames from beginning to end, unreadable ones included; None where nobody knows."""
        return None

    @property
    def delivered(self) -> int:
        """Number of frames handed out so far."""
        return self._delivered

    @property
    def corrupt(self) -> int:
        """Number of frames so far that could not be read."""
        return self._corrupt

    @property
    def counts(self) -> StreamCounts:
        """What became of the frames so far."""
        return StreamCounts(
            captured=self.delivered + self.corrupt, delivered=self.delivered, corrupt=self.corrupt
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def _position(self) -> int:
        """Index of the frame that comes next."""
        return self._delivered + self._corrupt

    @abstractmethod
    def _read(self) -> Frame | ImageReadError | None:
        """Read the frame at `_position`.

        Returns:
            The frame; None at the end; the error if that frame cannot be read and the next call goes on with
            the one after it. What is raised instead, by a caller's generator for one, is never skipped.
        """

    def _release(self) -> None:  # noqa: B027 (most sources hold nothing)
        """Give back what the source holds; called once."""

    def close(self) -> None:
        """Give back what the source holds; closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._release()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        self._check_open()
        while True:
            index = self._position
            frame = self._read()
            if frame is None:
                raise StopIteration
            if isinstance(frame, Frame):
                self._delivered += 1
                return frame
            self._corrupt += 1
            if self._on_error == "raise":
                raise frame
            _logger.warning("Skipped frame %d of %s: %s", index, self._source_id, frame)
            if self.on_skip is not None:
                self.on_skip(index)

    def __enter__(self) -> Source:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(
                f"The source {self._source_id!r} was used after close; wanted an open one. "
                "Open it again with cada_edge.open_source."
            )

    def __repr__(self) -> str:
        length = "?" if self.length is None else self.length
        closed = ", closed" if self._closed else ""
        return f"{type(self).__name__}({self._source_id!r}, frame {self._position} of {length}{closed})"
