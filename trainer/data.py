"""Training images, decoded once: the runtime's own reading and preprocessing, kept as uint8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.runtime.datasets import Sample, load_images
from cada_edge.runtime.preprocess import RESIZE_NAME
from cada_edge.trainer.array_file import write_rows

__all__ = ["MEMORY_LIMIT_BYTES", "batches", "decode"]

MEMORY_LIMIT_BYTES = 4 << 30
"""Decoded images beyond it lie in a memory-mapped file of the run folder."""

_CHUNK = 64


def decode(
    samples: Sequence[Sample], size: int, *, resize_name: str = RESIZE_NAME, spill: Path | None = None
) -> NDArray[np.uint8]:
    """Decode and preprocess images once.

    Args:
        samples: The images.
        size: Side of the network input, in pixels.
        resize_name: One of `cada_edge.runtime.preprocess.RESIZES`.
        spill: File to map when the images take more than `MEMORY_LIMIT_BYTES`.

    Returns:
        uint8 (N, size, size, 3), BGR, in the samples' order.

    Raises:
        ImageReadError: An image cannot be read; the message names it.
        OutputError: The disk does not take the file.
    """

    def parts() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(samples), _CHUNK):
            paths = [sample.image for sample in samples[start : start + _CHUNK]]
            yield load_images(paths, (size, size), resize_name=resize_name)

    if spill is not None and len(samples) * size * size * 3 > MEMORY_LIMIT_BYTES:
        return write_rows(spill, parts(), len(samples))
    frames = np.empty((len(samples), size, size, 3), np.uint8)
    done = 0
    for part in parts():
        frames[done : done + len(part)] = part
        done += len(part)
    return frames


def batches(frames: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Give all frames in order, in batches on a device; the last may be smaller."""
    for start in range(0, len(frames), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(frames[start : start + batch_size])).to(device)
