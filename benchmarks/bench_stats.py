"""Statistics of latencies: no assumption about their distribution, and nothing left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Quantile",
    "Ratio",
    "Summary",
    "quantile_ranks",
    "ratio_of",
    "samples_needed",
    "share_interval",
    "summarize",
]

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Quantile:
    """One percentile with its confidence interval."""

    level: float
    """0-100."""
    value: float | None
    """The nearest rank's sample: that share of all samples is not above it. None where it is a lost one."""
    low: float | None
    """Lower end of its 95 % interval; None where there are too few samples for one, or it is a lost one."""
    high: float | None
    """Upper end."""


@dataclass(frozen=True)
class Summary:
    """All samples of one kind; their unit is the caller's."""

    n: int
    """Samples with a value, every one of them counted."""
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


def summarize(
    values: Sequence[float] | NDArray[np.float64], levels: Sequence[float], *, lost: int = 0
) -> Summary:
    """Summarise samples, all of them.

    Args:
        values: At least one.
        levels: Percentiles, 0-100.
        lost: Samples beyond every value, as frames that were dropped and never had their verdict: they count
            in the percentiles, and in nothing else.
    """
    ordered = np.sort(np.asarray(values, np.float64))

    def at(rank: int | None) -> float | None:
        return None if rank is None or rank > len(ordered) else float(ordered[rank - 1])

    n = len(ordered) + lost
    quantiles = []
    for level in levels:
        low, high = quantile_ranks(n, level)
        # What a rounded product lacks or has too much is no rank.
        rank = max(1, math.ceil(level * n / 100 - 1e-9))
        quantiles.append(Quantile(level, at(rank), at(low), at(high)))
    return Summary(
        len(ordered),
        float(ordered[0]),
        float(ordered.mean()),
        float(ordered.std(ddof=1)) if len(ordered) > 1 else 0.0,
        float(ordered[-1]),
        tuple(quantiles),
    )


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was counted, after Wilson (1927).

    Args:
        hits: Counted ones, 0 to n.
        n: All, at least 1.

    Example:
        >>> [round(end, 4) for end in share_interval(0, 1800)]
        [0.0, 0.0021]
    """
    z = 1.959964
    centre = (hits + z * z / 2) / (n + z * z)
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return max(0.0, centre - half), min(1.0, centre + half)


def ratio_of(
    numerators: Sequence[float] | NDArray[np.float64], denominators: Sequence[float] | NDArray[np.float64]
) -> Ratio:
    """Compare two models by the blocks that ran beside each other.

    Args:
        numerators: A figure of each block of the one.
        denominators: Of each block of the other, in the same order, above 0.
    """
    ratios = np.asarray(numerators, np.float64) / np.asarray(denominators, np.float64)
    interval = summarize(ratios, (50.0,)).quantiles[0]
    both = interval.low is not None and interval.high is not None
    return Ratio(
        float(np.median(ratios)),
        interval.low if both else None,
        interval.high if both else None,
        float(ratios.min()),
        float(ratios.max()),
        len(ratios),
    )
