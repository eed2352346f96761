"""Which test images a report shows, and what it needs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import Example
from cada_edge.runtime.datasets import Sample
from cada_edge.runtime.images import read_image, read_mask
from cada_edge.runtime.masks import DEFAULT_CONVENTION, resize_mask
from cada_edge.runtime.preprocess import preprocess

__all__ = ["first_of_each_kind", "make_example"]


def first_of_each_kind(samples: Sequence[Sample]) -> list[int]:
    """Choose the first defective and the first good image of each kind: a rule, not a selection.

    Args:
        samples: Of a test set.

    Returns:
        Their places, all defective ones before the good ones, each in the order of the kinds' names.
    """
    first: dict[tuple[bool, str], int] = {}
    for row, sample in enumerate(samples):
        first.setdefault((not sample.anomalous, sample.category), row)
    return [first[key] for key in sorted(first)]


def make_example(
    sample: Sample, size: int, maps: Mapping[str, NDArray[np.float32]], scores: Mapping[str, float]
) -> Example:
    """Read an image and its mask, as the model saw them.

    Args:
        sample: Of a test set.
        size: Side of the maps, in pixels.
        maps: Alignment -> float32 (size, size).
        scores: Alignment -> score.

    Raises:
        ImageError: The image or its mask cannot be read.
    """
    mask = np.zeros((size, size), np.uint8)
    if sample.mask is not None:
        mask = resize_mask(read_mask(sample.mask), (size, size), DEFAULT_CONVENTION)
    return Example(
        frame=preprocess(read_image(sample.image), (size, size)),
        mask=mask,
        category=sample.category,
        defect=sample.defect,
        maps=maps,
        scores=scores,
    )
