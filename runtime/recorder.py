"""Verdicts and pictures on their way to the disk: never in the way of inspection, none lost unsaid."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal

from cada_edge.errors import ConfigError
from cada_edge.runtime.sink_base import ItemT, Sink
from cada_edge.runtime.stream_events import EventKind, OnStatus, make_event, tell

__all__ = ["Recorder", "RecorderStats"]

_LONGEST_WAIT_S = 30.0
_BATCH = 5000
"""Records in one transaction: after a long failure memory and the time of a write stay bounded."""
_OVERFLOW_EVERY_S = 10.0
"""Shortest time between two events of a full queue."""


@dataclass(frozen=True)
class RecorderStats:
    """What became of a sink's records: put = written + waiting + lost."""

    written: int
    """On the disk."""
    waiting: int
    """In memory."""
    lost: int
    """Given up, oldest first, since the sink failed for too long."""
    failing: bool
    """Whether the last write failed."""


class Recorder(Generic[ItemT]):
    """Writes records to one sink in a thread of its own.

    A record is on the disk within a second of its verdict, as long as the sink takes it. A sink that fails is
    tried again and again; until then records wait in memory, and beyond the capacity some are given up and
    counted.
    """

    def __init__(
        self,
        sink: Sink[ItemT],
        *,
        on_status: OnStatus | None = None,
        interval_s: float = 0.25,
        first_wait_s: float = 0.5,
        capacity: int = 100_000,
        keep: Literal["newest", "oldest"] = "newest",
    ) -> None:
        """Start to write.

        Args:
            sink: It belongs to this one from now on, and is closed with it.
            on_status: Called with ``sink_failed`` and ``sink_recovered`` from the writing thread, and with
                ``sink_full`` from the one that puts.
            interval_s: Longest time that records are gathered for one write, in seconds.
            first_wait_s: Wait after a failed write; it doubles up to 30 s.
            capacity: Most records that wait, at least 1; 100,000 are about 50 MB.
            keep: Which of them stay when there are more: the newest, or those that were there first.

        Raises:
            ConfigError: An impossible capacity.
        """
        if capacity < 1:
            raise ConfigError(f"A capacity of {capacity} records came; wanted at least 1.")
        self._sink = sink
        self._on_status = on_status
        self._interval_s = interval_s
        self._first_wait_s = first_wait_s
        self._capacity = capacity
        self._keep = keep
        self._overflow_told_s = float("-inf")
        self._waiting: deque[ItemT] = deque()
        self._changed = threading.Condition()
        self._written = self._lost = self._in_hand = 0
        self._is_failing = self._is_closing = False
        self._deadline_s = float("inf")
        self._thread = threading.Thread(target=self._work, name=f"recorder {sink.path.name}", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> RecorderStats:
        """What became of the records so far."""
        with self._changed:
            waiting = len(self._waiting) + self._in_hand
            return RecorderStats(self._written, waiting, self._lost, self._is_failing)

    def put(self, record: ItemT) -> bool:
        """Take a record over; it never waits. After `close` it counts as lost.

        Returns:
            Whether it was taken.
        """
        with self._changed:
            if self._is_closing:
                self._lost += 1
                return False
            is_full = len(self._waiting) + self._in_hand >= self._capacity
            is_taken = not is_full or (self._keep == "newest" and bool(self._waiting))
            if is_full:
                self._lost += 1
            if is_taken:
                if is_full:
                    self._waiting.popleft()
                self._waiting.append(record)
                if len(self._waiting) == 1:
                    self._changed.notify_all()
            lost = self._lost
        if is_full:
            self._tell_overflow(lost)
        return is_taken

    def _tell_overflow(self, lost: int) -> None:
        now = time.monotonic()
        if now - self._overflow_told_s >= _OVERFLOW_EVERY_S:
            self._overflow_told_s = now
            self._tell(
                "sink_full",
                f"{self._sink.path} does not keep up; {lost} of what was to be written there are given up",
                lost=lost,
            )

    def close(self, timeout_s: float = 5.0) -> RecorderStats:
        """Write what waits, and end; harmless when called twice.

        Args:
            timeout_s: Longest time to try, in seconds. What is not written then counts as lost.

        Returns:
            What became of all records.
        """
        with self._changed:
            self._is_closing = True
            self._deadline_s = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s + 1.0)
        with self._changed:
            # In hand is only what a disk that hangs has not answered for.
            left = len(self._waiting) + self._in_hand
            self._lost += left
            self._waiting.clear()
            self._in_hand = 0
        if left:
            self._tell("sink_failed", f"{left} records were not written to {self._sink.path}", lost=left)
        return self.stats

    def _tell(self, kind: EventKind, message: str, **data: int) -> None:
        tell(self._on_status, make_event(kind, self._sink.path.name, message, **data))

    def _work(self) -> None:
        wait_s = self._first_wait_s
        while True:
            batch = self._next_batch()
            if batch is None:
                break
            try:
                self._sink.write(batch)
            except Exception as error:  # broad: whatever a sink raises, the records wait and are counted
                self._put_back(batch)
                self._fail(error)
                if not self._rest_after_failure(wait_s):
                    break
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                continue
            wait_s = self._first_wait_s
            self._succeed(len(batch))
        self._sink.close()

    def _next_batch(self) -> list[ItemT] | None:
        """Wait for records, gather some more for a moment, and take them; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            self._changed.wait_for(lambda: self._is_closing, self._interval_s)
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._in_hand = len(batch)
            return batch

    def _put_back(self, batch: Sequence[ItemT]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(batch))
            self._in_hand = 0

    def _rest_after_failure(self, wait_s: float) -> bool:
        """Wait before the next attempt; False when there is no time left for one."""
        with self._changed:
            if not self._is_closing:
                self._changed.wait_for(lambda: self._is_closing, wait_s)
                return True
            left_s = self._deadline_s - time.monotonic()
            # Nobody notifies any more: a plain wait between the last attempts.
            self._changed.wait(max(0.0, min(0.2, left_s)))
            return left_s > 0

    def _fail(self, error: Exception) -> None:
        with self._changed:
            is_new, self._is_failing = not self._is_failing, True
            waiting = len(self._waiting)
        if is_new:
            reason = str(error).rstrip(".")
            self._tell(
                "sink_failed",
                f"{self._sink.path} does not take records: {reason}. {waiting} wait and are tried again",
                waiting=waiting,
            )

    def _succeed(self, count: int) -> None:
        with self._changed:
            self._written += count
            self._in_hand = 0
            was_failing, self._is_failing = self._is_failing, False
            lost = self._lost
        if was_failing:
            self._tell(
                "sink_recovered",
                f"{self._sink.path} takes records again; {lost} were given up",
                lost=lost,
            )
