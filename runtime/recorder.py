"""Verdicts and pictures on their way to the disk: never in the way of inspection, none lost unsaid."""

from __future__ import annotations

import errno
import reprlib
import sqlite3
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
_OVERFLOW_EVERY_S = 10.0
"""Shortest time between two events of records that are given up."""

_OF_THE_DISK = frozenset(
    number
    for name in (
        # Full, broken, read-only; a folder or share that is gone; permissions; a machine short of something.
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ENOENT", "ENOTDIR", "ENODEV", "ENXIO", "ESTALE"),
        *("ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EACCES", "EPERM"),
        *("EBUSY", "EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOMEM"),
    )
    if (number := getattr(errno, name, None)) is not None
)
"""Failures that pass, or that somebody repairs: what waits for them is written later."""

_TRIES = 2
"""Of a record that its sink is not to blame for."""

_shown = reprlib.Repr()
_shown.maxother = 400


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
    counted. A record that no sink of its kind would take is given up alone.
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
        batch: int = 5000,
        attempts: int | None = None,
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
            batch: Most records in one write, at least 1: after a long failure memory and the time of a write
                stay bounded. 1 for a sink that cannot take back a part of what it wrote.
            attempts: For pictures, of which one may be impossible: failures in a row, at least 1, after which
                a write is given up and counted as lost where no disk is to blame. None for records: whatever
                an `OSError` or a database says is waited for, and only a record that is itself to blame, as
                for a number beyond SQLite's 64 bits, is given up.

        Raises:
            ConfigError: An impossible capacity.
        """
        for name, value in (("capacity", capacity), ("batch", batch), ("attempts", attempts)):
            if value is not None and value < 1:
                raise ConfigError(f"A {name} of {value} records came; wanted at least 1.")
        self._batch = batch
        self._attempts = attempts
        self._sink = sink
        self._on_status = on_status
        self._interval_s = interval_s
        self._first_wait_s = first_wait_s
        self._capacity = capacity
        self._keep = keep
        self._overflow_told_s = self._given_up_told_s = float("-inf")
        self._waiting: deque[ItemT] = deque()
        self._changed = threading.Condition()
        self._written = self._lost = self._in_hand = 0
        self._is_failing = self._is_told = self._is_closing = False
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
        failures = 0
        limit = self._batch
        while (batch := self._next_batch(limit)) is not None:
            try:
                self._sink.write(batch)
            except Exception as error:  # broad: whatever a sink raises, the records wait and are counted
                passes = self._passes(error)
                failures = 0 if passes else failures + 1
                if not passes and len(batch) > 1:
                    # Halves of halves find the record that is to blame.
                    limit = len(batch) // 2
                    self._put_back(batch)
                    continue
                if failures >= (self._attempts or _TRIES):
                    if self._attempts is not None:
                        failures = 0
                    self._give_up(batch, error)
                    continue
                self._put_back(batch)
                self._fail(error)
                if not self._rest_after_failure(wait_s):
                    break
                if passes:
                    wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                continue
            wait_s = self._first_wait_s
            failures = 0
            limit = min(self._batch, 2 * limit)
            self._succeed()
        try:
            self._sink.close()
        except Exception as error:  # broad: nobody else hears of it
            self._tell(
                "sink_failed",
                f"{self._sink.path} could not be closed: {_reason(error)}. Look whether its end is there",
            )

    def _passes(self, error: Exception) -> bool:
        """Tell whether a failure passes, or is somebody's to repair, and what came is not to blame."""
        if self._attempts is not None:
            return _errno_of(error) in _OF_THE_DISK
        # The bare DatabaseError is of a file that is damaged or no database.
        passing = (OSError, MemoryError, sqlite3.OperationalError)
        return isinstance(error, passing) or type(error) is sqlite3.DatabaseError

    def _next_batch(self, limit: int) -> list[ItemT] | None:
        """Wait for records, gather some more for a moment, and take them; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            if limit == self._batch:
                self._changed.wait_for(lambda: self._is_closing, self._interval_s)
            batch = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
            self._in_hand = len(batch)
            return batch

    def _put_back(self, batch: Sequence[ItemT]) -> None:
        with self._changed:
            # None in hand: `close` has not waited for this write, and counted it as lost.
            if self._in_hand:
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
            is_new, self._is_failing, self._is_told = not self._is_told, True, True
            waiting = len(self._waiting)
        if is_new:
            self._tell(
                "sink_failed",
                f"{self._sink.path} does not take records: {_reason(error)}. {waiting} wait and are tried "
                "again",
                waiting=waiting,
            )

    def _give_up(self, batch: Sequence[ItemT], error: Exception) -> None:
        with self._changed:
            self._lost += self._in_hand
            self._in_hand = 0
            self._is_failing = True
            lost = self._lost
        now = time.monotonic()
        if now - self._given_up_told_s >= _OVERFLOW_EVERY_S:
            self._given_up_told_s = now
            self._is_told = True
            self._tell(
                "sink_failed",
                f"{self._sink.path} cannot take what came, which is given up: {_reason(error)}. {lost} are "
                f"lost; this was {_shown.repr(batch[0])}",
                lost=lost,
            )

    def _succeed(self) -> None:
        with self._changed:
            # 0 in hand where `close` has not waited for it: it stays lost, whatever the disk has of it.
            self._written += self._in_hand
            self._in_hand = 0
            was_told, self._is_failing, self._is_told = self._is_told, False, False
            lost = self._lost
        if was_told:
            self._tell(
                "sink_recovered",
                f"{self._sink.path} takes records again; {lost} were given up",
                lost=lost,
            )


def _reason(error: Exception) -> str:
    return str(error).rstrip(".")


def _errno_of(error: BaseException) -> int | None:
    """Return the system's number of a failure; our own errors carry it in their cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        cause = cause.__cause__
    return None
