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
from cada_edge.trainer.processes import Processes

__all__ = ["MEMORY_LIMIT_BYTES", "batches", "decode", "decode_shared"]

MEMORY_LIMIT_BYTES = 4 << 30
"""Decoded images beyond it lie in a memory-mapped file of the run folder."""

_CHUNK = 64


def decode(
    samples: Sequence[Sample],
    size: int,
    *,
    resize_name: str = RESIZE_NAME,
    spill: Path | None = None,
    memory_limit: int | None = None,
) -> NDArray[np.uint8]:
    """Decode and preprocess images once.

    Args:
        samples: The images.
        size: Side of the network input, in pixels.
        resize_name: One of `cada_edge.runtime.preprocess.RESIZES`.
        spill: File to map when the images take more than the limit.
        memory_limit: Bytes; None for `MEMORY_LIMIT_BYTES`.

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

    limit = MEMORY_LIMIT_BYTES if memory_limit is None else memory_limit
    if spill is not None and len(samples) * size * size * 3 > limit:
        return write_rows(spill, parts(), len(samples))
    frames = np.empty((len(samples), size, size, 3), np.uint8)
    done = 0
    for part in parts():
        frames[done : done + len(part)] = part
        done += len(part)
    return frames


def decode_shared(
    samples: Sequence[Sample],
    size: int,
    *,
    resize_name: str = RESIZE_NAME,
    spill: Path,
    processes: Processes,
) -> NDArray[np.uint8]:
    """Decode images once for all processes of a machine: one of them does it, and all map the same file.

    Args:
        samples: The images, at least one.
        size: Side of the network input, in pixels.
        resize_name: As for `decode`.
        spill: The file, the same for the processes of a machine; its folder is made.
        processes: This one among the others; alone it decodes as `decode` does.

    Returns:
        uint8 (N, size, size, 3), BGR, in the samples' order.

    Raises:
        ImageReadError: An image cannot be read; the message names it.
        OutputError: The disk does not take the file.
        TrainingError: The process that decodes failed.
    """
    place = processes.place
    if place.local_rank == 0:
        spill.parent.mkdir(parents=True, exist_ok=True)
    if place.local_count == 1:
        return decode(samples, size, resize_name=resize_name, spill=spill)
    told = f"decoded/{place.machine}"
    if place.local_rank == 0:
        frames = decode(samples, size, resize_name=resize_name, spill=spill, memory_limit=0)
        processes.tell(told, True)
        return frames
    processes.hear(told)
    mapped: NDArray[np.uint8] = np.load(spill, mmap_mode="c")
    return mapped


def batches(frames: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Give all frames in order, in batches on a device; the last may be smaller."""
    for start in range(0, len(frames), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(frames[start : start + batch_size])).to(device)
