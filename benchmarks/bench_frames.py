"""Frames to measure with: parts of the procedural line before a camera of any resolution, or a user's own.

Never zeros and never one frame again and again: a real frame's bytes are not in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import SourceError
from cada_edge.runtime.live_source import LiveSource
from cada_edge.runtime.preprocess import load_cv2
from cada_edge.runtime.source_iterable import IterableSource
from cada_edge.runtime.sources import open_source

__all__ = ["FrameSet", "SteadyFrames", "draw_frames", "read_frames"]

_MOST, _FEWEST = 32, 8
"""Frames that are kept at most, and at least when they are drawn."""
_MOST_BYTES = 256 << 20
"""Memory for them; many times a processor's cache, so that each comes from memory as from a camera."""

_LEAST_SIDE, _DRAWN_SIDE = 64, 384
"""Smallest and largest side at which a part is drawn, in pixels, before it comes to the camera's scale."""


class SteadyFrames(IterableSource):
    """Frames whose pixels never change: a run takes them uncopied, as it does a camera's."""

    lends_images = False


@dataclass(frozen=True)
class FrameSet:
    """Frames in memory, all different."""

    images: tuple[NDArray[Any], ...]
    """uint8 (H, W, 3) BGR as drawn, or what a source gave."""
    origin: str
    """Where they come from, in words."""

    @property
    def sizes(self) -> list[str]:
        """Widths and heights among them, as '1280x720'."""
        return sorted({f"{image.shape[1]}x{image.shape[0]}" for image in self.images})

    def cycle(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Give them again and again, from one of them on."""
        position = start
        while True:
            yield self.images[position % len(self.images)]
            position += 1

    def to_dict(self) -> dict[str, Any]:
        """Return what a record says of them."""
        return {"origin": self.origin, "distinct": len(self.images), "sizes": self.sizes}


def draw_frames(size_hw: tuple[int, int], *, seed: int = 0) -> FrameSet:
    """Draw parts of every kind of the procedural line, as a camera above a belt sees them.

    Args:
        size_hw: The camera's height and width, in pixels.
        seed: Of all of them.

    Returns:
        8 to 32 frames, depending on their size.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = load_cv2("Drawing frames")
    from cada_edge.trainer.synthetic_parts import KINDS, draw_part

    height, width = size_hw
    count = min(_MOST, max(_FEWEST, _MOST_BYTES // (3 * height * width)))
    rng = np.random.default_rng(seed)
    side = min(height, width)
    drawn_side = min(max(side, _LEAST_SIDE), _DRAWN_SIDE)
    parts = [
        cv2.resize(draw_part(kind, rng, drawn_side), (side, side), interpolation=cv2.INTER_LINEAR)
        for kind in KINDS[: min(len(KINDS), count)]
    ]
    lattice = rng.normal(70, 6, (6, 12)).astype(np.float32)
    shade = cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    belt = np.repeat(shade.astype(np.uint8)[..., np.newaxis], 3, axis=2)
    # One plane of the sensor's noise, laid down elsewhere on each frame.
    grain = rng.integers(-3, 4, (height + 64, width + 64, 3), np.int16)
    images = []
    for number in range(count):
        part = np.rot90(parts[number % len(parts)], int(rng.integers(4)))
        down, across = (int(rng.integers(0, 1 + free)) for free in (height - side, width - side))
        top, left = (int(value) for value in rng.integers(0, 65, 2))
        frame = belt.copy()
        frame[down : down + side, across : across + side] = part
        gain = np.float32(rng.uniform(0.92, 1.08))
        noisy = frame * gain + grain[top : top + height, left : left + width]
        images.append(np.ascontiguousarray(noisy.clip(0, 255).astype(np.uint8)))
    return FrameSet(tuple(images), f"{len(parts)} kinds of procedural parts, seed {seed}")


def read_frames(source: Path) -> FrameSet:
    """Read frames of a file or folder into memory, so that decoding them is no part of what is measured.

    Args:
        source: Image folder, glob, list file or video; the first frames that fit into 256 MiB, 32 at most.

    Raises:
        SourceError: It cannot be opened, is live, or has fewer than two different frames.
        ImageReadError: An image of it cannot be read.
    """
    images: list[NDArray[Any]] = []
    kept_bytes = 0
    opened = open_source(str(source))
    with opened:
        if isinstance(opened, LiveSource):
            raise SourceError(
                f"The live source {opened.source_id} came; wanted a file or folder, whose frames can be "
                "measured again. Record some frames and pass their folder with --source."
            )
        for frame in opened:
            if images and (len(images) >= _MOST or kept_bytes + frame.image.nbytes > _MOST_BYTES):
                break
            if not any(np.array_equal(frame.image, other) for other in images):
                images.append(frame.image)
                kept_bytes += frame.image.nbytes
    if len(images) < 2:
        raise SourceError(
            f"{source} has {len(images)} different frames; wanted at least 2, better some dozens: one frame "
            "again and again lies in the processor's cache. Name a folder or video with more."
        )
    return FrameSet(tuple(images), str(source))
