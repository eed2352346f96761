"""AUROC and average precision of many scores: exact, at four bytes a score.

Positives and negatives are kept apart, in *runs*: blocks of scores, each sorted in place. Both metrics follow
from how many scores lie below each positive, and such counts add up over runs, so that nothing is ever
concatenated, merged or given an index array. Histograms would be smaller, but fail on narrow clusters and
outliers.

``-0.0`` ties with ``0.0``, infinities rank like any other score, NaN is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError

__all__ = [
    "PixelScores",
    "RankMetrics",
    "ScoreRuns",
    "auroc",
    "average_precision",
    "count_ranks",
    "rank_metrics",
    "rank_runs",
]

_RUN = 1 << 23
"""Scores in one run: 32 MiB of float32."""
RANKED_AT_ONCE = 1 << 12
"""Scores for one call of `count_ranks` out of many sorted ones."""


class RankMetrics(NamedTuple):
    """AUROC and average precision of one group of scores, 0-1; both None without scores of both classes."""

    auroc: float | None
    """Chance that a positive scores above a negative, a tie counting half."""
    average_precision: float | None
    """Step-wise area under the precision-recall curve, as scikit-learn's."""


class ScoreRuns:
    """Scores of one class, appended as they come and kept as sorted runs.

    Memory: four bytes a score and at most one run (32 MiB) of untouched address space.

    Args:
        run_length: Scores in one run.
    """

    def __init__(self, *, run_length: int = _RUN) -> None:
        self._run_length = run_length
        self._full: list[NDArray[np.float32]] = []
        self._open = np.empty(0, np.float32)
        self._used = 0
        self._open_is_sorted = True

    def __len__(self) -> int:
        return sum(len(run) for run in self._full) + self._used

    def append(self, scores: NDArray[np.float32]) -> None:
        """Add scores.

        Args:
            scores: float32, any shape; copied.

        Raises:
            InputError: There is a NaN among them.
        """
        scores = scores.ravel()
        if np.isnan(scores).any():
            raise InputError(_nan_message(int(np.isnan(scores).sum()), scores.size))
        while scores.size:
            if not self._open.size:
                self._open = np.empty(self._run_length, np.float32)
            taken = min(self._open.size - self._used, scores.size)
            self._open[self._used : self._used + taken] = scores[:taken]
            self._used += taken
            self._open_is_sorted = False
            scores = scores[taken:]
            if self._used == self._open.size:
                self._open.sort()
                self._full.append(self._open)
                self._open, self._used = np.empty(0, np.float32), 0

    def runs(self) -> list[NDArray[np.float32]]:
        """Return the sorted runs, none of them empty; views that hold until the next `append`."""
        if not self._used:
            return list(self._full)
        unfinished = self._open[: self._used]
        if not self._open_is_sorted:
            unfinished.sort()
            self._open_is_sorted = True
        return [*self._full, unfinished]


class PixelScores:
    """Pixel scores of any number of anomaly maps, for their exact AUROC and average precision.

    Memory: four bytes a pixel and a fixed chunk; the maps themselves are not kept. The metrics take four more
    for each anomalous pixel while they are computed.
    """

    def __init__(self) -> None:
        self.positive = ScoreRuns()
        """Scores of the anomalous pixels."""
        self.negative = ScoreRuns()
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
        return rank_runs(self.positive.runs(), self.negative.runs())

    @staticmethod
    def joint_metrics(parts: Iterable[PixelScores]) -> RankMetrics:
        """Return the exact metrics of several groups' pixels together, without copying them."""
        parts = list(parts)
        positive_runs = [run for part in parts for run in part.positive.runs()]
        negative_runs = [run for part in parts for run in part.negative.runs()]
        return rank_runs(positive_runs, negative_runs)


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
    """Return both metrics for hardly more than the cost of one: the cost lies in the sorting.

    Memory: a copy of the arrays and a fixed chunk.

    Args:
        positive: float32 or float64 scores of the anomalous, any shape; left as they are.
        negative: Likewise of the normal.

    Raises:
        InputError: There is a NaN among the scores.
    """
    positive, negative = np.asarray(positive), np.asarray(negative)
    dtype = np.float32 if positive.dtype == negative.dtype == np.float32 else np.float64
    return rank_runs(_sorted_runs(positive, dtype), _sorted_runs(negative, dtype))


def rank_runs(positive_runs: Sequence[NDArray[Any]], negative_runs: Sequence[NDArray[Any]]) -> RankMetrics:
    """Compute both metrics in one pass over the positives, of which one more copy is made.

    Args:
        positive_runs: Sorted arrays of one dtype without NaN.
        negative_runs: Sorted arrays of the same dtype without NaN.
    """
    positives = sum(len(run) for run in positive_runs)
    negatives = sum(len(run) for run in negative_runs)
    if not positives or not negatives:
        return RankMetrics(None, None)
    # In halves, as Python integers: exact for any number of pixels.
    twice_won = 0
    precision_sum = 0.0
    ranked = np.sort(np.concatenate(positive_runs)) if len(positive_runs) > 1 else positive_runs[0]
    for start in range(0, positives, RANKED_AT_ONCE):
        scores, places, counts = _distinct(ranked[start : start + RANKED_AT_ONCE])
        below, equal = count_ranks(negative_runs, scores)
        twice_won += int(np.dot(2 * below + equal, counts))
        # With the threshold at a score, everything that is not below it is reported.
        places += start
        # The first score may go on from the chunk before.
        places[0] = np.searchsorted(ranked, scores[0], "left")
        true_reports = positives - places
        false_reports = negatives - below
        precision_sum += float(np.dot(true_reports / (true_reports + false_reports), counts))
    return RankMetrics(twice_won / (2 * positives * negatives), precision_sum / positives)


def count_ranks(
    runs: Sequence[NDArray[Any]], scores: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count what lies below each score in the runs, and what equals it.

    Args:
        runs: Sorted arrays of the scores' dtype.
        scores: (N,), sorted, N >= 1.

    Returns:
        Two int64 (N,): scores of the runs below, and equal.
    """
    below = np.zeros(len(scores), np.int64)
    equal = np.zeros(len(scores), np.int64)
    for run in runs:
        # Close scores need a small part of the run, and that part fits a processor's cache.
        start = int(np.searchsorted(run, scores[0], "left"))
        near = run[start : np.searchsorted(run, scores[-1], "right")]
        place = np.searchsorted(near, scores, "left")
        below += place + start
        if near.size:
            # Ties are rare: the second search is made for them alone.
            tied = np.flatnonzero(near[np.minimum(place, near.size - 1)] == scores)
            equal[tied] += np.searchsorted(near, scores[tied], "right") - place[tied]
    return below, equal


def _distinct(
    scores: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Split sorted scores into the distinct ones, where each starts and how often it occurs."""
    starts = np.concatenate(([0], np.flatnonzero(scores[1:] != scores[:-1]) + 1))
    return scores[starts], starts, np.diff(starts, append=len(scores))


def _sorted_runs(scores: NDArray[Any], dtype: type[np.float32] | type[np.float64]) -> list[NDArray[Any]]:
    copy = np.array(scores, dtype).ravel()
    runs = [copy[start : start + _RUN] for start in range(0, len(copy), _RUN)]
    # NumPy sorts without the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        list(pool.map(np.ndarray.sort, runs))
    # NaN sorts to the end.
    if any(np.isnan(run[-1]) for run in runs):
        raise InputError(_nan_message(int(np.isnan(copy).sum()), copy.size))
    return runs


def _nan_message(count: int, total: int) -> str:
    return (
        f"{count} of {total} scores are NaN; wanted numbers, since NaN has no rank. "
        "Find the image they come from with `cada-edge predict`, and the cause with `cada-edge verify`."
    )
