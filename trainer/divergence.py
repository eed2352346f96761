"""Tells when training has gone wrong, from the losses alone."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

__all__ = ["LossWatch"]

_WINDOW = 200
"""Iterations of the running median."""
_FACTOR = 10.0
"""How far above the median is far."""
_PATIENCE = 50
"""Iterations in a row far above it that are a divergence: few enough that the median still is the old one."""
_BEGINNING = 20
"""Iterations whose median is what an untrained network loses."""


class LossWatch:
    """Follows the loss of each iteration and says when it has diverged.

    The rule: for 50 iterations in a row the loss is above ten times the median of the last 200, or, once
    that median has fallen to half of the beginning's, above the beginning's. The second limit is for losses
    that cannot grow tenfold, as cosine distances, where a collapsed network is as bad as an untrained one.
    Nothing is said before 100 iterations. A warm-up never meets the rule: its losses are the beginning, and
    one spoiled batch, or a rise for less than 50 iterations, does not either.
    """

    def __init__(self, state: object = None) -> None:
        """Start to watch.

        Args:
            state: Of an interrupted run, from `state`; anything else is taken for none.
        """
        kept: dict[str, Any] = state if isinstance(state, dict) else {}
        self._beginning = _numbers(kept.get("beginning"))[:_BEGINNING]
        self._recent = deque(_numbers(kept.get("recent")), _WINDOW)
        high = kept.get("high", 0)
        # Half a memory is none: without the beginning there is no second limit.
        self._high = high if isinstance(high, int) and self._beginning else 0

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on watching, plain values."""
        return {"beginning": list(self._beginning), "recent": list(self._recent), "high": self._high}

    patience = _PATIENCE
    """Iterations in a row above the limit that are a divergence."""

    @property
    def is_high(self) -> bool:
        """Whether the last loss was above the limit."""
        return self._high > 0

    def limit(self) -> float:
        """Return the loss above which an iteration counts as far too high; infinite before 100 iterations."""
        if len(self._recent) < 2 * _PATIENCE or not self._beginning:
            return math.inf
        median = statistics.median(self._recent)
        beginning = statistics.median(self._beginning)
        return min(_FACTOR * median, beginning) if median <= beginning / 2 else _FACTOR * median

    def diverged(self, loss: float) -> bool:
        """Take note of an iteration's loss, a finite number, and tell whether training has diverged."""
        self._high = self._high + 1 if loss > self.limit() else 0
        if len(self._beginning) < _BEGINNING:
            self._beginning.append(loss)
        self._recent.append(loss)
        return self._high >= _PATIENCE


def _numbers(values: object) -> list[float]:
    return [float(value) for value in values if isinstance(value, float)] if isinstance(values, list) else []
