"""The reference file's content: frames, and what fp32 PyTorch gives for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.errors import CheckFailedError
from cada_edge.runtime.parity import Reference
from cada_edge.runtime.preprocess import resize
from cada_edge.trainer.checkpoint import Checkpoint
from cada_edge.trainer.model import TrainedModel, exact_fp32

__all__ = ["at_network_size", "reference_of", "run_torch"]

_CAMERA_NORMAL, _CAMERA_ANOMALOUS = 10, 3
"""Frames of a reference at the camera's resolution. With the extremes they are 16, which at 1080p take 100 MB
when read; 64 would take 400 MB on the box that verifies the model."""


def reference_of(checkpoint: Checkpoint, *, frame_hw: tuple[int, int] | None = None) -> Reference:
    """Run fp32 PyTorch on the checkpoint's frames and on black, white and noise.

    Args:
        checkpoint: On the CPU, in eval mode.
        frame_hw: For a file that takes the camera's frames: their height and width. The checkpoint keeps its
            frames at the network's size only, so 13 of them, with their scores evenly from lowest to highest,
            are brought to this size by repeating pixels; what PyTorch sees went through the runtime's resize.

    Returns:
        What the exported file is held against.

    Raises:
        CheckFailedError: PyTorch itself gives a value that is not finite.
    """
    size = checkpoint.config.size
    extremes = np.empty((3, size, size, 3), np.uint8)
    extremes[0], extremes[1] = 0, 255
    extremes[2] = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    frames, label = checkpoint.reference_frames, checkpoint.reference_labels
    if frame_hw is not None:
        rows = _representative(run_torch(checkpoint.model, frames)[0], label)
        frames, label = frames[rows], label[rows]
    frames = np.concatenate([frames, extremes])
    if frame_hw is not None:
        frames = np.stack([_repeated(frame, frame_hw) for frame in frames])
    score, maps, stats = run_torch(checkpoint.model, at_network_size(frames, size))
    if not (np.isfinite(score).all() and np.isfinite(maps).all() and np.isfinite(stats).all()):
        raise CheckFailedError(
            "The PyTorch model itself gives values that are not finite. Train again with a lower rate."
        )
    label = np.concatenate([label, np.full(3, -1, np.int8)])
    return Reference(frames, score, stats, maps.astype(np.float16), label)


def _representative(score: NDArray[np.float32], label: NDArray[np.int8]) -> NDArray[np.intp]:
    """Choose frames evenly over the order of their scores: the fp16 limit is taken from the spread."""
    chosen = []
    for value, most in ((0, _CAMERA_NORMAL), (1, _CAMERA_ANOMALOUS)):
        rows = np.flatnonzero(label == value)
        order = rows[np.argsort(score[rows], kind="stable")]
        places = np.linspace(0, max(len(order) - 1, 0), min(most, len(order))).round().astype(int)
        chosen.append(order[places])
    return np.concatenate(chosen)


def _repeated(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an image (h, w, 3) to a size by repeating pixels, or leaving some out: it compresses well."""
    rows, columns = (
        np.arange(wanted) * have // wanted for wanted, have in zip(size_hw, image.shape[:2], strict=True)
    )
    repeated: NDArray[np.uint8] = image[rows[:, None], columns]
    return repeated


def at_network_size(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize frames (N, H, W, 3) as the runtime does, to (N, size, size, 3)."""
    return np.stack([resize(frame, (size, size)) for frame in frames])


def run_torch(
    model: TrainedModel, frames: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Score frames in fp32 PyTorch, 8 at a time.

    Args:
        model: On the CPU, in eval mode.
        frames: uint8 (N, S, S, 3), BGR, of the network's size.

    Returns:
        Scores (N,), maps (N, S, S) and statistics (N, 2).
    """
    parts = []
    with torch.inference_mode(), exact_fp32():
        for start in range(0, len(frames), 8):
            parts.append([output.numpy() for output in model(torch.from_numpy(frames[start : start + 8]))])
    score, maps, stats = (np.concatenate(column) for column in zip(*parts, strict=True))
    return score, maps, stats
