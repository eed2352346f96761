"""Put what a demo run found into sentences that follow the numbers, whichever way they point."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.runtime.conformal import clopper_pearson
from cada_edge.runtime.evaluation import Evaluation

__all__ = [
    "auroc_difference",
    "count_verdicts",
    "decimals_for",
    "describe_finding",
    "describe_rate",
    "signed",
]

_NORMAL_975 = 1.959964
"""97.5 % quantile of the normal distribution: two of its sides make a 95 % interval."""
_IMAGES_FOR_A_DECIMAL = 100
"""Images of the rarer class from which on tenths of a percent are printed."""


def describe_finding(result: DemoResult) -> list[str]:
    """Return the finding as sentences, the main one first.

    Args:
        result: What was measured; the sentences name gains and losses alike.
    """
    return [_main_finding(result), *_cost_of_mixing(result), *_alarm_counts(result)]


def _main_finding(result: DemoResult) -> str:
    done = (
        f"One model learned {len(set(result.categories))} kinds of parts at once from unlabelled images of "
        f"good parts, and CADA aligned its scores: on {_describe_images(result)} the mixed I-AUROC"
    )
    before = result.variants["none"].evaluation.mixed["i_auroc"]
    after = result.variants["cada"].evaluation.mixed["i_auroc"]
    if before is None or after is None:
        missing = result.variants["none" if before is None else "cada"].evaluation
        return f"{done} is not known: {missing.reasons.get('mixed.i_auroc', 'no reason was recorded')}."
    digits = decimals_for(result)
    change = after - before
    interval = _describe_interval(result, digits)
    if round(change, digits) == 0:
        return f"{done} stayed at {after:.{digits}f} %{interval}."
    moved = (
        f"from {before:.{digits}f} % to {after:.{digits}f} %, by {abs(change):.{digits}f} "
        f"{'point' if f'{abs(change):.{digits}f}' == '1' else 'points'}{interval}"
    )
    if change < 0:
        return f"{done} fell {moved}: alignment made it worse."
    return f"{done} rose {moved}."


def _describe_interval(result: DemoResult, digits: int) -> str:
    interval = auroc_difference(
        result.variants["none"].scores, result.variants["cada"].scores, anomalous=result.anomalous
    )
    if interval is None:
        return ""
    low, high = interval
    doubt = "; this may be chance" if low <= 0 <= high else ""
    return f" (95 % interval {signed(low, digits)} to {signed(high, digits)}{doubt})"


def _cost_of_mixing(result: DemoResult) -> list[str]:
    digits = decimals_for(result)
    costs = {}
    for name in ("none", "cada"):
        evaluation = result.variants[name].evaluation
        averaged, mixed = evaluation.averaged["i_auroc"], evaluation.mixed["i_auroc"]
        if averaged is None or mixed is None:
            return []
        costs[name] = signed(averaged - mixed, digits).removeprefix("+")
    sentence = (
        "Ranking all kinds together instead of each alone costs "
        f"{costs['none']} points of I-AUROC without alignment and {costs['cada']} with it"
    )
    reference = result.variants["class-aware"].evaluation.mixed["i_auroc"]
    if reference is None:
        return [f"{sentence}."]
    return [
        f"{sentence}; class-aware alignment, the reference that is told each part's kind, reaches "
        f"{reference:.{digits}f} % mixed."
    ]


def _alarm_counts(result: DemoResult) -> list[str]:
    alarms = {}
    found = {}
    for name in ("none", "cada"):
        evaluation = result.variants[name].evaluation
        alarms[name] = count_verdicts(evaluation, "false_alarms")
        found[name] = count_verdicts(evaluation, "detected")
    if alarms["none"] is None or alarms["cada"] is None:
        return []
    sentence = (
        "At the one threshold, set on held-out good parts, "
        f"{alarms['none'][0]} of {alarms['none'][1]} good test parts raise a false alarm without alignment "
        f"and {alarms['cada'][0]} with it"
    )
    if found["none"] is None or found["cada"] is None:
        return [f"{sentence}."]
    return [
        f"{sentence}; of {found['none'][1]} defective parts {found['none'][0]} are found without and "
        f"{found['cada'][0]} with it."
    ]


def _describe_images(result: DemoResult) -> str:
    defective = int(np.count_nonzero(result.anomalous))
    good = len(result.anomalous) - defective
    return f"{len(result.anomalous)} test images ({good} good, {defective} defective)"


def decimals_for(result: DemoResult) -> int:
    """Return how many decimals of a percent the test images support: none or one.

    With fewer than 100 images of one class, a single one moves its rates by more than a percent.
    """
    defective = int(np.count_nonzero(result.anomalous))
    return 1 if min(defective, len(result.anomalous) - defective) >= _IMAGES_FOR_A_DECIMAL else 0


def count_verdicts(
    evaluation: Evaluation, verdict: Literal["false_alarms", "detected"]
) -> tuple[int, int] | None:
    """Sum one verdict over the kinds that have it.

    Args:
        evaluation: Of one variant.
        verdict: False alarms are counted among the normal images, detected among the anomalous.

    Returns:
        Images with the verdict, and of how many; None without images or without a threshold.
    """
    counted, total = 0, 0
    for figures in evaluation.per_kind.values():
        count = figures[verdict]
        if count is not None:
            counted += count
            total += figures["normal_images" if verdict == "false_alarms" else "anomalous_images"]
    return (counted, total) if total else None


def describe_rate(count: int, total: int) -> str:
    """Return a rate in percent with its 95 % Clopper-Pearson interval, in the digits that the total supports.

    Args:
        count: How many were seen.
        total: Of how many, at least 1.

    Example:
        >>> describe_rate(3, 40)
        '8 % (95 % interval 2–20 %)'
    """
    digits = 1 if total >= _IMAGES_FOR_A_DECIMAL else 0
    low, high = clopper_pearson(count, total)
    return (
        f"{100 * count / total:.{digits}f} % (95 % interval {100 * low:.{digits}f}–{100 * high:.{digits}f} %)"
    )


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, zero without one.

    Example:
        >>> signed(-1.25, 1), signed(0.04, 1)
        ('−1.2', '0.0')
    """
    if round(value, digits) == 0:
        return f"{0:.{digits}f}"
    return f"{value:+.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Return a number in three significant digits, trailing zeros kept.

    Example:
        >>> significant(1.1), significant(0.0488), significant(15230.0)
        ('1.10', '0.0488', '15230')
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def auroc_difference(
    first: NDArray[np.float32], second: NDArray[np.float32], *, anomalous: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Return the 95 % interval of the AUROC of the second scores minus that of the first, in points.

    Both score the same images, so the difference is far surer than either AUROC. It covers the choice of test
    images alone: not the training's seed, nor that images of one kind resemble each other.

    Source: DeLong, DeLong, Clarke-Pearson, Biometrics 44(3), 1988.

    Args:
        first: (N,).
        second: (N,), of the same images.
        anomalous: (N,).

    Returns:
        Lower and upper end; None with fewer than two images of a class.
    """
    positives, negatives = int(np.count_nonzero(anomalous)), int(np.count_nonzero(~anomalous))
    if min(positives, negatives) < 2:
        return None
    of_positives = _won_shares(second[anomalous], second[~anomalous]) - _won_shares(
        first[anomalous], first[~anomalous]
    )
    of_negatives = _won_shares(first[~anomalous], first[anomalous]) - _won_shares(
        second[~anomalous], second[anomalous]
    )
    variance = np.var(of_positives, ddof=1) / positives + np.var(of_negatives, ddof=1) / negatives
    half_width = _NORMAL_975 * math.sqrt(float(variance))
    difference = float(of_positives.mean())
    return 100 * (difference - half_width), 100 * (difference + half_width)


def _won_shares(scores: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of the others that lies below each score, ties counting half."""
    others = np.sort(others)
    below, not_above = np.searchsorted(others, scores, "left"), np.searchsorted(others, scores, "right")
    return np.asarray((below + not_above) / (2 * len(others)), np.float64)
