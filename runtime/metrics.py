"""AUROC and average precision of many scores, exact.

Both follow from how many scores of the normal lie below each score of the anomalous, and how many equal it.
Such counts add up over parts of the scores, so that nothing has to be in one place or in one order.
Histograms of scores would be smaller, but fail on narrow clusters and outliers.

``-0.0`` ties with ``0.0``, infinities rank like any other score, NaN is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError
from cada_edge.runtime.score_memory import ScoreMemory
from cada_edge.runtime.score_runs import ScoreRuns, count_ranks, nan_error, tally

__all__ = ["PixelScores", "RankMetrics", "auroc", "average_precision", "rank_metrics", "rank_runs"]


class RankMetrics(NamedTuple):
    """AUROC and average precision of one group of scores, 0-1; both None without scores of both classes."""

    auroc: float | None
    """Chance that a positive scores above a negative, a tie counting half."""
    average_precision: float | None
    """Step-wise area under the precision-recall curve, as scikit-learn's."""


class PixelScores:
    """Pixel scores of any number of anomaly maps, for their exact AUROC and average precision.

    Memory: two bytes a pixel and a fixed chunk; the maps themselves are not kept.

    Args:
        memory: What bounds it, shared with others; None keeps all scores in memory.
    """

    def __init__(self, *, memory: ScoreMemory | None = None) -> None:
        self.positive = ScoreRuns(memory=memory)
        """Scores of the anomalous pixels."""
        self.negative = ScoreRuns(memory=memory)
        """Scores of the normal pixels."""

    def append(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.uint8] | None) -> None:
        """Add one image's pixels.

        Args:
            anomaly_map: float32 (H, W).
            mask: uint8 (H, W), not 0 where anomalous; None for a good image.

        Raises:
            InputError: A NaN, or a mask of another shape than the map.
        """
        if mask is None:
            self.negative.append(anomaly_map)
            return
        if mask.shape != anomaly_map.shape:
            raise InputError(
                f"A mask of shape {mask.shape} came for an anomaly map of shape {anomaly_map.shape}; "
                "wanted the same. Resize it first with cada_edge.runtime.masks.resize_mask."
            )
        anomalous = mask != 0
        self.positive.append(anomaly_map[anomalous])
        self.negative.append(anomaly_map[~anomalous])

    def metrics(self) -> RankMetrics:
        """Return the exact metrics of all pixels appended so far."""
        return rank_runs([self.positive], [self.negative])

    @staticmethod
    def joint_metrics(parts: Iterable[PixelScores]) -> RankMetrics:
        """Return the exact metrics of several groups' pixels together, without copying them."""
        parts = list(parts)
        return rank_runs([part.positive for part in parts], [part.negative for part in parts])


def auroc(positive: NDArray[Any], negative: NDArray[Any]) -> float | None:
    """Return the area under the ROC curve, a tie between the classes counting half.

    Args:
        positive: float32 or float64 scores of the anomalous, any shape; left as they are.
        negative: Likewise of the normal.

    Returns:
        0-1, scikit-learn's `roc_auc_score` to 1e-9; None when a class is empty.

    Raises:
        InputError: There is a NaN among the scores.
    """
    return rank_metrics(positive, negative).auroc


def average_precision(positive: NDArray[Any], negative: NDArray[Any]) -> float | None:
    """Return the step-wise area under the precision-recall curve.

    Args:
        positive: float32 or float64 scores of the anomalous, any shape; left as they are.
        negative: Likewise of the normal.

    Returns:
        0-1, scikit-learn's `average_precision_score` to 1e-9; None when a class is empty.

    Raises:
        InputError: There is a NaN among the scores.
    """
    return rank_metrics(positive, negative).average_precision


def rank_metrics(positive: NDArray[Any], negative: NDArray[Any]) -> RankMetrics:
    """Return both metrics for hardly more than the cost of one.

    Memory: for float32 two bytes a score and a fixed chunk, for other types a copy and its sorting.

    Args:
        positive: float32 or float64 scores of the anomalous, any shape; left as they are.
        negative: Likewise of the normal.

    Raises:
        InputError: There is a NaN among the scores.
    """
    positive, negative = np.asarray(positive), np.asarray(negative)
    for scores in (positive, negative):
        if scores.dtype != np.float32 and np.isnan(scores).any():
            raise nan_error(scores)
    if positive.dtype == negative.dtype == np.float32:
        return rank_runs([ScoreRuns.of(positive)], [ScoreRuns.of(negative)])
    ordered = np.sort(negative, axis=None)
    scores, counts = np.unique(positive, return_counts=True)
    below = np.searchsorted(ordered, scores, "left")
    equal = np.searchsorted(ordered, scores, "right") - below
    return _summarise(positive.size, negative.size, [(counts, below, equal)])


def rank_runs(positives: Sequence[ScoreRuns], negatives: Sequence[ScoreRuns]) -> RankMetrics:
    """Compute both metrics of scores that lie in runs.

    Args:
        positives: Scores of the anomalous, in any number of parts.
        negatives: Scores of the normal.
    """
    ranks = ((counts, *count_ranks(negatives, keys)) for keys, counts in tally(positives))
    return _summarise(sum(map(len, positives)), sum(map(len, negatives)), ranks)


def _summarise(
    positives: int,
    negatives: int,
    ranks: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]],
) -> RankMetrics:
    """Compute the metrics from where the positives lie among the negatives.

    Args:
        positives: How many there are.
        negatives: How many there are.
        ranks: For the distinct scores of positives, ascending, in parts of (M,): how many positives have
            each, how many negatives lie below and how many equal it.
    """
    if not positives or not negatives:
        return RankMetrics(None, None)
    # In halves, as Python integers: exact for any number of pixels.
    twice_won = 0
    precision_sum = 0.0
    done = 0
    for counts, below, equal in ranks:
        twice_won += int(np.dot(2 * below + equal, counts))
        # With the threshold at a score, everything that is not below it is reported.
        true_reports = positives - done - np.cumsum(counts) + counts
        false_reports = negatives - below
        precision_sum += float(np.dot(true_reports / (true_reports + false_reports), counts))
        done += int(counts.sum())
    return RankMetrics(twice_won / (2 * positives * negatives), precision_sum / positives)
