"""What the sources have in common whose frames are captured by a thread."""

from __future__ import annotations

from cada_edge.errors import ImageReadError
from cada_edge.runtime.frame_buffer import FrameBuffer
from cada_edge.runtime.source_base import Frame, Source
from cada_edge.runtime.stream_events import StreamCounts

__all__ = ["BufferedSource"]


class BufferedSource(Source):
    """Frames that a thread puts into a buffer; whoever iterates takes them out of it."""

    def __init__(self, source_id: str, buffer: FrameBuffer) -> None:
        super().__init__(source_id, on_error="skip")
        self._buffer = buffer

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
