"""The normal images that training never sees, from which the threshold is set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cada_edge.errors import ConfigError
from cada_edge.runtime.dataset_samples import Sample

__all__ = ["FEWEST_IMAGES", "split_holdout"]

FEWEST_IMAGES = 10
"""Below this many images none is held out: training needs each, and a threshold from one says nothing."""


def split_holdout(
    samples: Sequence[Sample], *, fraction: float = 0.1, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples by the hash of their relative path and the seed.

    Each image is decided on its own, without labels: images added or removed later move no other, and
    every folder gives about its share. The number held out is therefore near the fraction, not equal to
    it. From `FEWEST_IMAGES` on at least one image is held out and at least one kept, and only to see to
    that may an image be moved by another; with fewer images all are kept.

    Args:
        samples: The normal training images.
        fraction: Share to hold out, 0 to 1 without 1; 0 holds out nothing.
        seed: Chooses among the splits.

    Returns:
        What is kept and what is held out, both in the order given.

    Raises:
        ConfigError: The fraction is out of its range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"A held-out fraction of {fraction} came; wanted at least 0 and below 1. "
            "Take 0.1, or 0 to hold out nothing."
        )
    if fraction == 0 or len(samples) < FEWEST_IMAGES:
        return tuple(samples), ()
    shares = [_share(sample.relative, seed) for sample in samples]
    smallest, largest = min(shares), max(shares)
    held_out = [share == smallest or (share < fraction and share != largest) for share in shares]
    return (
        tuple(sample for sample, held in zip(samples, held_out, strict=True) if not held),
        tuple(sample for sample, held in zip(samples, held_out, strict=True) if held),
    )


def _share(relative: str, seed: int) -> float:
    """Map a path and a seed to a number in [0, 1), evenly and alike on every machine."""
    # The path of a file whose name is not UTF-8 holds surrogates.
    digest = hashlib.sha256(f"{seed}\0{relative}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
