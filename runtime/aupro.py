"""AUPRO: how well each defect is covered, whatever its size, at low false-positive rates.

The per-region overlap at a threshold is the mean, over the defects, of the share of their pixels above it.
Its curve over the false-positive rate, integrated up to a limit, is a sum over the anomalous pixels: each
adds its share of its defect for the part of the axis on which it is found, and that part follows from the
number of normal pixels above it. So the area is exact, with no thresholds to choose and no map to keep.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import InputError
from cada_edge.runtime.preprocess import load_cv2
from cada_edge.runtime.score_runs import ScoreRuns, count_ranks, ordered_keys

__all__ = ["FPR_LIMIT", "RegionScores", "aupro"]

FPR_LIMIT = 0.3
"""False-positive rate up to which the curve is integrated, as in the literature."""
_RANKED_AT_ONCE = 1 << 20
"""Anomalous pixels ranked in one go."""


class RegionScores:
    """Scores of the anomalous pixels of any number of images, with the size of the defect each belongs to.

    Memory: eight bytes an anomalous pixel; the maps themselves are not kept.
    """

    def __init__(self) -> None:
        self.regions = 0
        """Defects so far."""
        self.scores: list[NDArray[np.float32]] = []
        """Per image with defects: the scores (N,) of its anomalous pixels."""
        self.sizes: list[NDArray[np.int32]] = []
        """Beside them: the size (N,) of the defect each pixel belongs to, in pixels."""

    def append(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.uint8]) -> None:
        """Add one image's defects: the 8-connected components of its mask.

        Args:
            anomaly_map: float32 (H, W), without NaN.
            mask: uint8 (H, W), not 0 where anomalous.
        """
        cv2 = load_cv2("AUPRO")
        anomalous = mask != 0
        if not anomalous.any():
            return
        count, labels = cv2.connectedComponents(np.ascontiguousarray(anomalous, np.uint8), connectivity=8)
        sizes = np.bincount(labels.ravel())
        self.scores.append(anomaly_map[anomalous])
        self.sizes.append(sizes[labels[anomalous]].astype(np.int32))
        # Label 0 is the background.
        self.regions += count - 1


def aupro(
    groups: Iterable[RegionScores], negative_parts: Sequence[ScoreRuns], *, fpr_limit: float = FPR_LIMIT
) -> float | None:
    """Return the normalised area under the per-region-overlap curve, over all images together.

    Args:
        groups: Defects of one or more groups of images.
        negative_parts: What together holds the score of each normal pixel of all images, good ones included:
            `PixelScores.negative` of one or more groups.
        fpr_limit: Where the integration ends, above 0 and up to 1.

    Returns:
        0-1, exact (the trapezoids between all distinct thresholds); None without defects or normal pixels.

    Raises:
        InputError: The limit is out of range.
    """
    if not 0 < fpr_limit <= 1:
        raise InputError(
            f"An AUPRO limit of {fpr_limit} came; wanted a false-positive rate above 0 and up to 1. "
            f"Leave it out for {FPR_LIMIT}."
        )
    groups = list(groups)
    regions = sum(group.regions for group in groups)
    negatives = sum(map(len, negative_parts))
    if not regions or not negatives:
        return None
    scores = np.concatenate([part for group in groups for part in group.scores])
    sizes = np.concatenate([part for group in groups for part in group.sizes])
    order = np.argsort(scores)
    area = 0.0
    for start in range(0, len(order), _RANKED_AT_ONCE):
        chunk = order[start : start + _RANKED_AT_ONCE]
        below, equal = count_ranks(negative_parts, ordered_keys(scores[chunk]))
        found_at = (negatives - below - equal) / negatives
        area += float(np.sum(_found_until(fpr_limit, found_at, equal / negatives) / sizes[chunk]))
    return area / (regions * fpr_limit)


def _found_until(
    limit: float, found_at: NDArray[np.float64], tied: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the length of the axis, up to the limit, on which pixels are found.

    Args:
        limit: End of the axis.
        found_at: Rate of the normal pixels above each: there its ramp starts.
        tied: Rate of the normal pixels that tie with it: along those it is found bit by bit.
    """
    on_ramp = np.clip(limit - found_at, 0.0, tied)
    beyond = np.maximum(limit - found_at - tied, 0.0)
    # Without a tie the ramp has no length and nothing is divided.
    return on_ramp * on_ramp / (2.0 * np.where(tied > 0.0, tied, 1.0)) + beyond
