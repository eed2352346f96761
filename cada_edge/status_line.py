"""One line on stderr that shows how far something is, without a package for it."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StatusLine"]

_LOG_EVERY_S = 30.0
"""Time between two lines where stderr is no terminal, in seconds."""


class StatusLine:
    """Shows the last state; a terminal's line is overwritten, a file gets a line now and then."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        """Prepare.

        Args:
            label: Before each state.
            stream: Where to write; None for stderr.
        """
        self._label = label
        self._stream = stream
        self._started_s = time.perf_counter()
        self._logged_s = self._started_s
        self._width = 0

    def update(self, stage: str, done: int, total: int) -> None:
        """Show a stage, its steps done and its steps in all (0: not known)."""
        stream, now_s = self._stream or sys.stderr, time.perf_counter()
        steps = f" {done}/{total}" if total else ""
        text = f"{self._label} {now_s - self._started_s:4.0f} s  {stage}{steps}"
        if stream.isatty():
            stream.write("\r" + text.ljust(self._width))
            stream.flush()
            self._width = len(text)
        elif now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            stream.write(text + "\n")
            stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._width:
            stream = self._stream or sys.stderr
            stream.write("\r" + " " * self._width + "\r")
            stream.flush()
