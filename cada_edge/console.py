"""What a long-running command prints, from its threads, without ever being stopped by who reads it."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

import click

from cada_edge.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

    from cada_edge.runtime.stream_events import OnStatus

__all__ = ["Notices", "ResultLines", "discard_stdout"]

_MOST_WAITING = 1000
_CLOSE_S = 2.0


class Notices:
    """Lines on stderr, written by a thread of their own.

    Events come from the threads that open cameras and write records: a pipe that nobody reads must not hold
    these up, and one whose reader is gone must not end them. Of more than 1,000 lines that wait the oldest
    are given up, and their number is said.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._write, name="cada-edge notices", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print a line, soon; from any thread."""
        with self._changed:
            self._lines.append(line)
            if len(self._lines) > _MOST_WAITING:
                self._lines.popleft()
                self._lost += 1
            self._changed.notify()

    def _write(self) -> None:
        while (text := self._take()) is not None:
            try:
                click.echo(text, err=True)
            except (OSError, ValueError):  # who read it is gone; the next line finds out whether for good
                continue

    def _take(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_closing)
            if self._lost:
                text = f"{self._lost} lines are left out here: nobody read them"
                self._lost = 0
                return text
            return self._lines.popleft() if self._lines else None

    def close(self) -> None:
        """Print what waits, for two seconds at most."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ResultLines:
    """Lines of results on stdout, in order and at once: a reader that is slow slows the command down.

    Where the results are kept elsewhere too, a stdout that fails is told once and passed over: its reader
    went away, or the disk below it is full.
    """

    def __init__(self, *, kept_elsewhere: bool, on_status: OnStatus) -> None:
        """Prepare.

        Args:
            kept_elsewhere: Whether the command goes on without stdout.
            on_status: Told when lines are lost.
        """
        self._kept_elsewhere = kept_elsewhere
        self._on_status = on_status
        self._is_gone = False
        self.lost = 0
        """Lines that were not written, or not whole."""

    def write(self, line: str) -> None:
        """Print a line.

        Raises:
            BrokenPipeError: The reader is gone, and the results are kept nowhere else.
            OutputError: The disk does not take it, and likewise.
        """
        if self._is_gone:
            self.lost += 1
            return
        try:
            click.echo(line)
        except OSError as error:
            if not self._kept_elsewhere:
                if isinstance(error, BrokenPipeError):
                    raise
                raise OutputError(
                    f"Results cannot be written to stdout: {error.strerror or error}. Make room, or keep "
                    "them with --record FILE, which goes on by itself when there is room again."
                ) from error
            self._pass_over(error)

    def _pass_over(self, error: OSError) -> None:
        from cada_edge.runtime.stream_events import make_event

        if self.lost == 0:
            reason = error.strerror or str(error)
            self._on_status(make_event("sink_failed", "stdout", f"stdout takes no lines: {reason}"))
        self.lost += 1
        if error.errno == errno.EPIPE:
            self._is_gone = True
        # What Python still holds of the line would fail again, at the latest at the interpreter's end.
        discard_stdout(for_good=self._is_gone)


def discard_stdout(*, for_good: bool) -> None:
    """Drop what is in stdout's buffer, by letting the null device take it."""
    descriptor = sys.stdout.fileno()
    kept = os.dup(descriptor)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        sys.stdout.flush()
        if not for_good:
            os.dup2(kept, descriptor)
    finally:
        os.close(null)
        os.close(kept)
