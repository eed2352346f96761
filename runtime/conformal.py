"""The threshold for a wanted rate of false alarms, from the scores of normal images alone.

Split conformal prediction: of n held-out scores the ceil((n + 1)(1 - a))-th smallest is the threshold, and
a new normal image scores above it with probability a at most, on average over calibrations. That holds for
any distribution as long as old and new images are exchangeable: of the same camera and mix of products, not
augmented, not neighbours of training frames, not trained on. Training on all images voids the threshold.

Sources: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Clopper, Pearson, Biometrika
26(4), 1934.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cada_edge.errors import ConfigError, InputError
from cada_edge.manifest import Calibration

__all__ = [
    "DEFAULT_FALSE_ALARM_RATE",
    "ConformalThreshold",
    "clopper_pearson",
    "conformal_threshold",
    "images_for_confidence",
    "images_needed",
    "to_calibration",
]

DEFAULT_FALSE_ALARM_RATE = 0.005
"""One false alarm in 200 good parts."""

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class ConformalThreshold:
    """A threshold, and what the scores that set it can promise.

    The interval is that of Clopper and Pearson for the k scores of n that lie above the threshold. It says
    what this one threshold's rate of false alarms will be, while the conformal rule speaks of the average
    over calibrations. With distinct scores the true rate is distributed as Beta(k + 1, n - k) over the draws
    of the n images: the upper end is that distribution's 97.5 % quantile, the lower end lies below its 2.5 %
    one, and so at least 95 % of all calibrations have their true rate inside.
    """

    threshold: float
    """A score strictly above it is anomalous."""
    images: int
    """Normal images whose scores set it."""
    false_alarm_rate: float
    """Wanted rate of false alarms, 0-1."""
    supported_false_alarm_rate: float
    """Smallest rate that so many images can promise, 0-1: 1 / (images + 1)."""
    images_needed: int
    """Images that the wanted rate needs."""
    interval_low: float
    """Lower end of the 95 % interval of this threshold's rate of false alarms, 0-1."""
    interval_high: float
    """Upper end of it, 0-1."""
    warning: str | None
    """Why the wanted rate is not promised; None where it is."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-safe."""
        return dataclasses.asdict(self)


def conformal_threshold(
    scores: ArrayLike, false_alarm_rate: float = DEFAULT_FALSE_ALARM_RATE
) -> ConformalThreshold:
    """Choose the threshold for a rate of false alarms from the scores of normal images.

    With fewer images than the rate needs it is the highest score, and the record carries a warning.

    Args:
        scores: (N,), one aligned score for each held-out normal image.
        false_alarm_rate: Wanted share of normal images above the threshold, between 0 and 1.

    Raises:
        InputError: There is no score, or one is NaN or infinite.
        ConfigError: The rate is not between 0 and 1.
    """
    needed = images_needed(false_alarm_rate)
    values = np.sort(np.asarray(scores, np.float64).ravel())
    images = values.size
    if not images:
        raise InputError(
            "No score came to calibrate with; wanted one for each held-out normal image, "
            f"{needed} of them for a false-alarm rate of {false_alarm_rate:g}. "
            "Give a folder of normal images."
        )
    faulty = images - int(np.isfinite(values).sum())
    if faulty:
        raise InputError(
            f"{faulty} of {images} calibration scores are NaN or infinite; wanted numbers. "
            "Check the model with: cada-edge verify MODEL"
        )
    # In fractions: 200 * (1 - 0.005) may come out above 199 in floating point.
    rank = math.ceil((images + 1) * (1 - _as_written(false_alarm_rate)))
    threshold = float(values[min(rank, images) - 1])
    low, high = clopper_pearson(int(np.count_nonzero(values > threshold)), images)
    return ConformalThreshold(
        threshold=threshold,
        images=images,
        false_alarm_rate=float(false_alarm_rate),
        supported_false_alarm_rate=1 / (images + 1),
        images_needed=needed,
        interval_low=low,
        interval_high=high,
        warning=_shortage(images, needed, false_alarm_rate) if rank > images else None,
    )


def to_calibration(result: ConformalThreshold, *, source: str, data_fingerprint: str) -> Calibration:
    """Make the manifest's record of a threshold.

    Args:
        result: What `conformal_threshold` gave.
        source: Where the images came from, in words.
        data_fingerprint: SHA-256 over the images' names and bytes.
    """
    return Calibration(
        images=result.images,
        false_alarm_rate=result.false_alarm_rate,
        supported_false_alarm_rate=result.supported_false_alarm_rate,
        images_needed=result.images_needed,
        images_for_confidence=images_for_confidence(result.false_alarm_rate),
        interval_low=result.interval_low,
        interval_high=result.interval_high,
        source=source,
        data_fingerprint=data_fingerprint,
    )


def images_needed(false_alarm_rate: float) -> int:
    """Return how many normal images a rate of false alarms needs: the least n with 1 / (n + 1) <= rate.

    Example:
        >>> images_needed(0.005)
        199

    Raises:
        ConfigError: The rate is not between 0 and 1.
    """
    if not 0 < false_alarm_rate < 1:
        raise ConfigError(
            f"A false-alarm rate of {false_alarm_rate} came; wanted a share above 0 and below 1. "
            "For one false alarm in 200 good parts give 0.005."
        )
    return math.ceil(1 / _as_written(false_alarm_rate)) - 1


def images_for_confidence(false_alarm_rate: float, *, confidence: float = _CONFIDENCE) -> int:
    """Return how many normal images assure the rate for this one threshold, not only on average.

    So many images are above a threshold of a higher rate at least once with this probability.

    Example:
        >>> images_for_confidence(0.005)
        598

    Args:
        false_alarm_rate: Wanted rate, between 0 and 1.
        confidence: Share of calibrations, between 0 and 1, that shall keep the rate.
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-false_alarm_rate))


def clopper_pearson(count: int, total: int, *, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate of which `count` in `total` were seen.

    Args:
        count: From 0 to `total`.
        total: At least 1.
        confidence: Least probability that the interval holds the rate, between 0 and 1.

    Returns:
        Lower and upper end, 0-1.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _beta_quantile(tail, count, total - count + 1)
    high = 1.0 if count == total else _beta_quantile(1 - tail, count + 1, total - count)
    return low, high


def _as_written(rate: float) -> Fraction:
    """Return the fraction that a person meant, as 1/200, not the binary one next to it."""
    return Fraction(rate).limit_denominator(10**12) or Fraction(rate)


def _shortage(images: int, needed: int, rate: float) -> str:
    return (
        f"{images} normal images cannot promise a false-alarm rate of {rate:g}: that needs {needed} "
        f"({images_for_confidence(rate)} to be 95 % sure of it). "
        f"The threshold is their highest score and supports {1 / (images + 1):.3g}. "
        "Run `cada-edge calibrate` with more images."
    )


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Return x with I_x(a, b) = probability, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        if _beta_share(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for 0 < x < 1."""
    if x > (a + 1) / (a + b + 2):
        # There the continued fraction converges slowly; the mirrored one fast.
        return 1 - _beta_share(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) by Lentz's method (DLMF 8.17.22)."""
    tiny = 1e-300
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        half = step // 2
        if step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1 / (1 + term * denominator or tiny)
        numerator = 1 + term / numerator or tiny
        change = numerator * denominator
        value *= change
        if abs(change - 1) < 1e-15:
            break
    return value
