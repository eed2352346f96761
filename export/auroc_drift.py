"""How far the AUROC of an exported file is from the one of what it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import CheckFailedError
from cada_edge.manifest import Parity
from cada_edge.runtime.datasets import DatasetIndex, load_images
from cada_edge.runtime.metrics import auroc

__all__ = ["with_drift"]

_LIMITS_POINTS = {"fp32": 0.2, "fp16": 0.2, "int8": 0.5}
_IMAGES = 100
_BATCH = 8

_Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def with_drift(
    parity: Parity,
    data: DatasetIndex,
    size_hw: tuple[int, int],
    *,
    wanted: _Scores,
    found: _Scores,
    precision: str,
) -> Parity:
    """Measure the AUROC drift on a data set's test images, where there are enough of them.

    Args:
        parity: To be completed.
        data: The data set.
        size_hw: Height and width of the file's frames, in pixels.
        wanted: Scores (N,) of uint8 (N, H, W, 3) BGR frames by what the file was made from.
        found: The file's own.
        precision: Of the file, for the limit.

    Raises:
        CheckFailedError: The drift is not below the limit.
    """
    anomalous = np.array([sample.anomalous for sample in data.test], bool)
    if min(int(anomalous.sum()), int((~anomalous).sum())) < _IMAGES:
        reason = (
            f"{int((~anomalous).sum())} normal and {int(anomalous.sum())} anomalous test images; "
            f"{_IMAGES} of each are needed"
        )
        return dataclasses.replace(parity, auroc_drift=None, auroc_drift_reason=reason)
    paths = [sample.image for sample in data.test]
    parts = []
    for start in range(0, len(paths), _BATCH):
        frames = load_images(paths[start : start + _BATCH], size_hw)
        parts.append((wanted(frames), found(frames)))
    both = (np.concatenate(column) for column in zip(*parts, strict=True))
    figures = [auroc(scores[anomalous], scores[~anomalous]) for scores in both]
    assert figures[0] is not None
    assert figures[1] is not None
    drift, limit = abs(figures[0] - figures[1]) * 100, _LIMITS_POINTS[precision]
    if drift >= limit:
        raise CheckFailedError(
            f"The AUROC of the exported file differs from PyTorch's by {drift:.2f} points "
            f"on {len(paths)} images; the limit is {limit}. Export with --precision fp32."
        )
    return dataclasses.replace(parity, auroc_drift=drift, auroc_drift_reason=None)
