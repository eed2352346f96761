"""Frames between the thread that captures them and the one that takes them: bounded, every one counted."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from typing import Literal

from cada_edge.errors import ConfigError
from cada_edge.runtime.source_base import Frame
from cada_edge.runtime.stream_events import StreamCounts

__all__ = ["DropPolicy", "FrameBuffer"]

DropPolicy = Literal["latest", "block", "drop-oldest"]
"""What happens to a frame that comes while the buffer is full:

* ``latest``: it takes the place of the one frame that waits, which is dropped. For live sources: what is
  inspected is never older than one inspection.
* ``drop-oldest``: as ``latest``, with up to `capacity` frames waiting: rides out a short delay.
* ``block``: the capturing thread waits until there is room; nothing is dropped. For files.
"""

_POLICIES = ("latest", "block", "drop-oldest")


class FrameBuffer:
    """One producer puts, one consumer takes; `captured = delivered + dropped + corrupt + waiting`.

    The counts change under one lock, so that the equation holds whenever they are read. Several buffers may
    share one condition: then their consumer can wait for whichever gets a frame first.
    """

    def __init__(
        self, policy: DropPolicy, capacity: int = 1, *, changed: threading.Condition | None = None
    ) -> None:
        """Make an empty buffer.

        Args:
            policy: What happens when it is full.
            capacity: Most frames that wait, at least 1; 1 with ``latest``.
            changed: Notified at every change; None for one of its own.

        Raises:
            ConfigError: An unknown policy, or a capacity that does not fit it.
        """
        if policy not in _POLICIES:
            raise ConfigError(
                f"The drop policy {policy!r} came; wanted one of {', '.join(_POLICIES)}. "
                "Pass 'latest' for a camera, 'block' for files."
            )
        if capacity < 1 or (policy == "latest" and capacity != 1):
            raise ConfigError(
                f"A buffer of {capacity} frames came with the policy {policy!r}; wanted at least 1, and "
                "exactly 1 with 'latest'. Pass 'drop-oldest' to keep several."
            )
        self._policy = policy
        self._capacity = capacity
        self._changed = changed or threading.Condition()
        self._also: threading.Condition | None = None
        self._frames: deque[Frame] = deque()
        self._captured = self._delivered = self._dropped = self._corrupt = self._gaps = 0
        self._dropped_since = 0
        self._held = 0
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None

    @property
    def counts(self) -> StreamCounts:
        """What became of the frames so far."""
        with self._changed:
            return StreamCounts(
                captured=self._captured,
                delivered=self._delivered,
                dropped=self._dropped,
                corrupt=self._corrupt,
                waiting=len(self._frames) + self._held,
                source_gaps=self._gaps,
            )

    @property
    def closed(self) -> bool:
        """Whether the consumer takes no more frames."""
        return self._closed

    def notify_also(self, changed: threading.Condition) -> None:
        """Notify another condition too whenever a frame comes: for one consumer of buffers made before it."""
        self._also = changed

    def _wake(self) -> None:
        """Notify it, when this buffer's own lock is free: its holder may be asking this buffer something."""
        if self._also is not None:
            with self._also:
                self._also.notify_all()

    def put(self, frame: Frame) -> bool:
        """Hand a frame over; with ``block`` wait for room.

        Returns:
            False when the consumer has closed the buffer: the frame is dropped, and there is no use in more.
        """
        with self._changed:
            self._captured += 1
            if self._closed:
                self._drop()
                return False
            if self._policy == "block":
                # Held by this thread, the frame waits as much as those in the queue.
                self._held += 1
                self._changed.wait_for(lambda: self._closed or len(self._frames) < self._capacity)
                if self._closed:
                    return False  # close has counted it as dropped
                self._held -= 1
            if len(self._frames) >= self._capacity:
                self._frames.popleft()
                self._drop()
            self._frames.append(frame)
            self._changed.notify_all()
        self._wake()
        return True

    def _drop(self) -> None:
        self._dropped += 1
        self._dropped_since += 1

    def count_corrupt(self) -> None:
        """Count a frame that the source handed to us and that cannot be decoded."""
        with self._changed:
            self._captured += 1
            self._corrupt += 1

    def count_late(self) -> None:
        """Count a frame that came from a connection which had been given up: captured and dropped."""
        with self._changed:
            self._captured += 1
            self._drop()

    def count_gap(self, frames: int) -> None:
        """Count frames that never came, by the source's own numbering."""
        with self._changed:
            self._gaps += frames

    def finish(self, error: BaseException | None = None) -> None:
        """Tell that no more frames come; an error is raised to the consumer after the last one."""
        with self._changed:
            if not self._finished:
                self._finished = True
                self._error = error
            self._changed.notify_all()
        self._wake()

    def take(self, timeout_s: float | None = None) -> Frame | None:
        """Take the oldest frame, with the number of those dropped since the one before it.

        Args:
            timeout_s: How long to wait for one; 0 not at all, None as long as it takes.

        Returns:
            The frame; None when the time is up, and when there are no more (then `exhausted` is True).

        Raises:
            BaseException: What ended the producer, once, after its last frame.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._frames:
                if self._finished or self._closed:
                    error = None if self._closed else self.take_error()
                    if error is not None:
                        raise error
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            frame = self._frames.popleft()
            self._delivered += 1
            dropped, self._dropped_since = self._dropped_since, 0
            self._changed.notify_all()
        # On top of what a source before this one has dropped.
        return dataclasses.replace(frame, dropped_before=frame.dropped_before + dropped) if dropped else frame

    def peek(self) -> Frame | None:
        """Look at the frame that `take` would give now; None where none waits."""
        with self._changed:
            return self._frames[0] if self._frames else None

    def take_error(self) -> BaseException | None:
        """Take what ended the producer, where `take` has not raised it: a closed buffer's does not."""
        with self._changed:
            error, self._error = self._error, None
            return error

    @property
    def ready(self) -> bool:
        """Whether `take` gives a frame, or raises, without waiting."""
        with self._changed:
            return bool(self._frames) or (self._error is not None and not self._closed)

    @property
    def exhausted(self) -> bool:
        """Whether no frame waits and none will come, nor an error."""
        with self._changed:
            return not self.ready and (self._finished or self._closed)

    def close(self) -> None:
        """Take no more frames: those that wait are dropped, and a producer that waits for room goes on."""
        with self._changed:
            if not self._closed:
                self._closed = True
                for _ in range(len(self._frames) + self._held):
                    self._drop()
                self._frames.clear()
                self._held = 0
            self._changed.notify_all()
        self._wake()
