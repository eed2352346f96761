"""What the sources have in common whose frames are captured by a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from cada_edge.errors import ImageReadError
from cada_edge.runtime.frame_buffer import FrameBuffer
from cada_edge.runtime.source_base import Frame, Source
from cada_edge.runtime.stream_events import OnStatus, StatusEvent, StreamCounts, tell

__all__ = ["BufferedSource", "close_all"]

_log = logging.getLogger(__name__)


class BufferedSource(Source):
    """Frames that a thread puts into a buffer; whoever iterates takes them out of it."""

    lends_images = False

    def __init__(self, source_id: str, buffer: FrameBuffer, *, on_status: OnStatus | None = None) -> None:
        super().__init__(source_id, on_error="skip")
        self._buffer = buffer
        self._listener = on_status
        self._listening = threading.Lock()
        self._newest: StatusEvent | None = None

    def listen(self, listener: OnStatus) -> None:
        """Tell a listener of each event from now on, and of the newest before: where there is none yet."""
        with self._listening:
            if self._listener is not None:
                return
            self._listener = listener
            if self._newest is not None:
                # Within the lock: a later event must not overtake it.
                tell(listener, self._newest)

    def _report(self, event: StatusEvent) -> None:
        with self._listening:
            self._newest = event
            listener = self._listener
        tell(listener, event)

    def stop(self) -> None:
        """Capture no more, and drop the frames that wait; `close` then waits for the capturing thread.

        Harmless when called twice. With several sources, stopping all before closing each makes the wait that
        of the slowest.
        """
        self._buffer.close()

    @property
    def buffer(self) -> FrameBuffer:
        """Where the frames wait."""
        return self._buffer

    @property
    def counts(self) -> StreamCounts:
        """What became of the frames so far."""
        return self._buffer.counts

    @property
    def delivered(self) -> int:
        """Number of frames handed out so far."""
        return self._buffer.counts.delivered

    @property
    def corrupt(self) -> int:
        """Number of frames so far that could not be read."""
        return self._buffer.counts.corrupt

    def _read(self) -> Frame | ImageReadError | None:
        return self._buffer.take()


def close_all(sources: Collection[BufferedSource]) -> None:
    """Close several sources, each whatever another one raises, in the time of the slowest.

    Raises:
        BaseException: The first of what they raise; the others are logged.
    """
    for source in sources:
        source.stop()
    first: BaseException | None = None
    for source in sources:
        try:
            source.close()
        except BaseException as error:
            if first is not None:
                _log.error("Closing %s failed too", source.source_id, exc_info=error)
            first = first or error
    if first is not None:
        raise first
