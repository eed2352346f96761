"""Training images, decoded once: the runtime's own reading and preprocessing, kept as uint8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.runtime.datasets import Sample, load_images

__all__ = ["MEMORY_LIMIT_BYTES", "batches", "decode"]

MEMORY_LIMIT_BYTES = 4 << 30
"""Decoded images beyond it lie in a memory-mapped file of the run folder."""

_CHUNK = 64


def decode(samples: Sequence[Sample], size: int, *, spill: Path | None = None) -> NDArray[np.uint8]:
    """Decode and preprocess images once.

    Args:
        samples: The images.
        size: Side of the network input, in pixels.
        spill: File to map when the images take more than `MEMORY_LIMIT_BYTES`.

    Returns:
        uint8 (N, size, size, 3), BGR, in the samples' order.

    Raises:
        ImageReadError: An image cannot be read; the message names it.
    """
    shape = (len(samples), size, size, 3)
    frames: NDArray[np.uint8]
    if spill is not None and int(np.prod(shape)) > MEMORY_LIMIT_BYTES:
        frames = np.lib.format.open_memmap(spill, "w+", np.uint8, shape)
    else:
        frames = np.empty(shape, np.uint8)
    for start in range(0, len(samples), _CHUNK):
        paths = [sample.image for sample in samples[start : start + _CHUNK]]
        frames[start : start + len(paths)] = load_images(paths, (size, size))
    return frames


def batches(frames: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Give all frames in order, in batches on a device; the last may be smaller."""
    for start in range(0, len(frames), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(frames[start : start + batch_size])).to(device)
