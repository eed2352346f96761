"""A batch of frames, as it comes and between the stages of its inspection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import FrameError
from cada_edge.runtime.backend import Outputs
from cada_edge.runtime.source_base import Frame

__all__ = ["InferredBatch", "PreparedBatch", "list_frames"]


class PreparedBatch(NamedTuple):
    """Frames as the model takes them."""

    pixels: NDArray[np.uint8]
    """uint8 (N, H, W, 3), BGR."""
    records: list[Frame | None]
    """Where each came from, (N,)."""
    preprocess_ms: float
    """Time that it took, in milliseconds."""


class InferredBatch(NamedTuple):
    """What the model gave for a batch."""

    outputs: Outputs
    """Of the model."""
    records: list[Frame | None]
    """Where each frame came from, (N,)."""
    preprocess_ms: float
    """Time of the first stage, in milliseconds."""
    inference_ms: float
    """Time of the model, in milliseconds."""
    stages_ms: dict[str, float]
    """Parts of it by the engine's own clock."""
    backend: str
    """What ran it, as `cada_edge.runtime.backend.Backend.description` gives it."""


def list_frames(frames: Sequence[NDArray[Any] | Frame]) -> list[NDArray[Any] | Frame]:
    """Return the frames of a batch; one frame alone is refused, whose rows would pass for grey frames.

    Args:
        frames: A sequence of arrays or `Frame` objects, or an array (N, H, W, 3).

    Raises:
        FrameError: It is one frame, or no sequence.
    """
    if isinstance(frames, Frame) or (isinstance(frames, np.ndarray) and frames.ndim != 4):
        raise FrameError(
            f"One frame came to batch ({getattr(frames, 'shape', 'Frame')}); wanted a list of frames or an "
            "array of shape (N, H, W, 3). Call detector(frame), or pass [frame]."
        )
    try:
        return list(frames)
    except TypeError as error:
        raise FrameError(
            f"A {type(frames).__name__} came to batch; wanted a list of frames. Pass [frame, ...]."
        ) from error
