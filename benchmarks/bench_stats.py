"""Statistics of latencies: no assumption about their distribution, and nothing left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quantile", "Ratio", "Summary", "quantile_ranks", "ratio_of", "samples_needed", "summarize"]

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Quantile:
    """One percentile with its confidence interval."""

    level: float
    """0-100."""
    value: float
    """Interpolated linearly between neighbours."""
    low: float | None
    """Lower end of its 95 % interval; None where there are too few samples for one."""
    high: float | None
    """Upper end."""


@dataclass(frozen=True)
class Summary:
    """All samples of one kind; their unit is the caller's."""

    n: int
    """Samples, every one of them counted."""
    minimum: float
    """Smallest."""
    mean: float
    """Arithmetic mean."""
    deviation: float
    """Standard deviation (n - 1); 0 of one sample."""
    maximum: float
    """Largest."""
    quantiles: tuple[Quantile, ...]
    """In ascending order."""

    def quantile(self, level: float) -> Quantile:
        """Return one of the percentiles that were asked for."""
        return next(each for each in self.quantiles if each.level == level)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-safe: percentiles as p50, with their intervals beside as p50_interval."""
        found: dict[str, Any] = {
            "n": self.n,
            "min": self.minimum,
            "mean": self.mean,
            "deviation": self.deviation,
            "max": self.maximum,
        }
        for each in self.quantiles:
            found[f"p{each.level:g}"] = each.value
            found[f"p{each.level:g}_interval"] = [each.low, each.high]
        return found


@dataclass(frozen=True)
class Ratio:
    """One model's figure over another's, block by block."""

    median: float
    """Of the pairs' ratios."""
    low: float | None
    """Lower end of the median's 95 % interval; None for fewer than six pairs."""
    high: float | None
    """Upper end."""
    minimum: float
    """Smallest ratio of a pair."""
    maximum: float
    """Largest ratio of a pair."""
    pairs: int
    """Pairs of neighbouring blocks."""


def quantile_ranks(n: int, level: float, *, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """Return the ranks of the order statistics between which a percentile lies.

    The number of samples below the true percentile is binomial, whatever the distribution, as long as the
    samples are independent; latencies that follow each other are not quite, so the interval is a lower bound
    of what is not known.

    Args:
        n: Samples.
        level: 0-100.
        confidence: 0-1, half of what is left out on each side.

    Returns:
        Ranks from 1; None where no sample is low, or high, enough.
    """
    share, tail = level / 100, (1 - confidence) / 2
    counts = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choices = log_factorial[n] - log_factorial - log_factorial[::-1]
    below = np.cumsum(np.exp(log_choices + counts * math.log(share) + (n - counts) * math.log1p(-share)))
    # P(X_(r) <= quantile) = P(at least r samples below it) = 1 - below[r - 1].
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return low if low >= 1 else None, high if high <= n else None


def samples_needed(level: float, *, confidence: float = CONFIDENCE) -> int:
    """Return the fewest samples that bound a percentile from both sides.

    Example:
        >>> samples_needed(99), samples_needed(50)
        (368, 6)
    """
    share = max(level, 100 - level) / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(share))


def summarize(values: Sequence[float] | NDArray[np.float64], levels: Sequence[float]) -> Summary:
    """Summarise samples, all of them.

    Args:
        values: At least one.
        levels: Percentiles, 0-100.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    quantiles = []
    for level, value in zip(levels, np.percentile(ordered, list(levels)), strict=True):
        low, high = quantile_ranks(n, level)
        quantiles.append(
            Quantile(
                level,
                float(value),
                None if low is None else float(ordered[low - 1]),
                None if high is None else float(ordered[high - 1]),
            )
        )
    return Summary(
        n,
        float(ordered[0]),
        float(ordered.mean()),
        float(ordered.std(ddof=1)) if n > 1 else 0.0,
        float(ordered[-1]),
        tuple(quantiles),
    )


def ratio_of(
    numerators: Sequence[float] | NDArray[np.float64], denominators: Sequence[float] | NDArray[np.float64]
) -> Ratio:
    """Compare two models by the blocks that ran beside each other.

    Args:
        numerators: A figure of each block of the one.
        denominators: Of each block of the other, in the same order, above 0.
    """
    ratios = np.asarray(numerators, np.float64) / np.asarray(denominators, np.float64)
    median = summarize(ratios, (50.0,)).quantiles[0]
    both = median.low is not None and median.high is not None
    return Ratio(
        median.value,
        median.low if both else None,
        median.high if both else None,
        float(ratios.min()),
        float(ratios.max()),
        len(ratios),
    )
