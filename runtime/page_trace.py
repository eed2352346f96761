"""A source's scores over time in bins of equal length: bounded however fast frames come."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["SPANS_S", "ScoreTrace"]

SPANS_S = {"120": 0.25, "3600": 10.0}
"""Span that a trace covers, in seconds, as its address has it -> length of its bins, in seconds."""


class ScoreTrace:
    """The latest bins that had a frame, each with its highest score, so that no alarm is averaged away."""

    def __init__(self, *, span_s: float, bin_s: float) -> None:
        self._bin_s = bin_s
        self._span_s = span_s
        # Number of the bin, highest score, lowest score, frames, anomalous frames.
        self._bins: deque[list[Any]] = deque(maxlen=round(span_s / bin_s) + 1)

    def add(self, monotonic_s: float, score: float, *, is_anomalous: bool) -> None:
        """Add a frame's score."""
        number = int(monotonic_s // self._bin_s)
        if self._bins and self._bins[-1][0] >= number:
            last = self._bins[-1]
            last[1] = max(last[1], score)
            last[2] = min(last[2], score)
            last[3] += 1
            last[4] += is_anomalous
        else:
            self._bins.append([number, score, score, 1, int(is_anomalous)])

    def since(self, monotonic_s: float) -> list[list[Any]]:
        """List the bins of the span that ends at a moment, the oldest first.

        Returns:
            For each: its age in seconds (of its beginning), highest and lowest score, frames, anomalous ones.
        """
        return [
            [round(monotonic_s - number * self._bin_s, 2), highest, lowest, frames, anomalous]
            for number, highest, lowest, frames, anomalous in list(self._bins)
            if monotonic_s - number * self._bin_s <= self._span_s + self._bin_s
        ]
