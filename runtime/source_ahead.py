"""Any source, read ahead by a thread of its own."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

import numpy as np

from cada_edge.errors import InputError
from cada_edge.runtime.buffered_source import BufferedSource
from cada_edge.runtime.frame_buffer import DropPolicy, FrameBuffer
from cada_edge.runtime.source_base import Source
from cada_edge.runtime.stream_events import OnStatus, Throttle, make_corrupt_event, make_event

__all__ = ["ReadAheadSource"]

_log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 5.0
"""For the thread, at the end: a caller's generator may wait for a camera that gives no frame."""


class ReadAheadSource(BufferedSource):
    """Frames of another source, captured in a thread while those before them are inspected.

    With ``latest`` or ``drop-oldest`` a generator around a camera becomes a live source; with ``block`` files
    are decoded ahead. Where frames carry numbers of their own (an iterable of `Frame` objects), missing ones
    are counted as gaps. An `ImageReadError` of a source with ``on_error="raise"`` ends it.

    The image of a caller's own frame is copied before the next one is asked for: an SDK's loop may fill the
    same array again, and the frame that waits would get the next one's pixels. Nothing tells which loop does.

    What a generator raises when it is closed, or meanwhile, or before without anybody having taken the frames
    up to there, is raised by `close`: a camera was unplugged. Input that cannot be read is not: nobody asked
    for it, and the log tells.
    """

    def __init__(
        self,
        source: Source,
        *,
        policy: DropPolicy = "block",
        capacity: int = 1,
        on_status: OnStatus | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        """Start to read.

        Args:
            source: It belongs to this one from now on, and is closed with it.
            policy: What happens to frames that come faster than they are taken.
            capacity: Most frames that wait.
            on_status: Called with events of gaps and of frames that are skipped, and at the end.
            changed: As for `FrameBuffer`.
        """
        buffer = FrameBuffer(policy, capacity, changed=changed)
        super().__init__(source.source_id, buffer, on_status=on_status)
        self._source = source
        self._corrupt_seen = 0
        self._skipped = 0  # since the frame before
        self._newest_skipped: int | None = None  # that no event has told
        self._missing = 0  # of which no event has told
        self._gap_events, self._corrupt_events = Throttle(), Throttle()
        source.on_skip = self._skip
        self._stopped_s: float | None = None
        self._ending = threading.Lock()
        self._is_left_behind = False
        self._thread = threading.Thread(target=self._pump, name=f"capture {source.source_id}", daemon=True)
        self._thread.start()

    @property
    def length(self) -> int | None:
        """Number of frames of the source."""
        return self._source.length

    def _pump(self) -> None:
        error: BaseException | None = None
        try:
            self._hand_over()
        except BaseException as raised:
            # It belongs to whoever takes the frames: there it is raised.
            error = raised
        self._count_corrupt()
        try:
            self._source.close()
        except BaseException as raised:
            if error is not None:
                _log.error("Closing %s failed", self.source_id, exc_info=raised)
            error = error or raised
        with self._ending:
            if error is not None and self._is_left_behind:
                _log.error("%s failed after it was closed", self.source_id, exc_info=error)
            self._buffer.finish(error)

    def _hand_over(self) -> None:
        last: int | None = None
        try:
            for frame in self._source:
                # A frame that could not be read leaves a gap in the index too, which is none of the source's.
                missing = 0 if last is None else frame.index - last - 1 - self._skipped
                last, self._skipped = frame.index, 0
                if missing > 0:
                    self._buffer.count_gap(missing)
                    self._missing += missing
                self._tell_losses()
                if self._source.lends_images and isinstance(frame.image, np.ndarray):
                    frame = dataclasses.replace(frame, image=frame.image.copy())
                if not self._buffer.put(frame):
                    return
        finally:
            self._tell_losses(all_of_them=True)
        self._report(make_event("ended", self.source_id, f"{self.source_id} has no more frames"))

    def _skip(self, index: int) -> None:
        self._count_corrupt()
        self._skipped += 1
        self._newest_skipped = index
        self._tell_losses()

    def _count_corrupt(self) -> None:
        """Take over what the source counted as corrupt since the last call."""
        new = self._source.corrupt - self._corrupt_seen
        self._corrupt_seen += new
        for _ in range(new):
            self._buffer.count_corrupt()

    def _tell_losses(self, *, all_of_them: bool = False) -> None:
        """Tell what no event has told yet, when it is time, or now: none comes after these."""
        if self._missing and (self._gap_events.passes() or all_of_them):
            frames, self._missing = self._missing, 0
            message = f"{frames} frames of {self.source_id} never came, by its own numbering"
            self._report(make_event("gap", self.source_id, message, frames=frames))
        if self._newest_skipped is not None and (self._corrupt_events.passes() or all_of_them):
            index, self._newest_skipped = self._newest_skipped, None
            self._report(make_corrupt_event(self.source_id, index, self._buffer.counts.corrupt))

    def stop(self) -> None:
        """Capture no more; `close` then waits for the generator, up to five seconds from here."""
        if self._stopped_s is None:
            self._stopped_s = time.monotonic()
        super().stop()

    def _release(self) -> None:
        self.stop()
        assert self._stopped_s is not None
        self._thread.join(max(0.0, self._stopped_s + _LONGEST_WAIT_S - time.monotonic()))
        with self._ending:
            self._is_left_behind = True
            error = self._buffer.take_error()
        if isinstance(error, InputError):
            _log.warning("%s was closed before its error was reached: %s", self.source_id, error)
        elif error is not None:
            raise error
