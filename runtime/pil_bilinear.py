"""Pillow's antialiased bilinear resize bit for bit, without Pillow.

Each pixel is the weighted mean of the region of the image under it, rounded to 8 bits after each axis. The
code family of the paper resizes so; masks always, images where a comparison asks for it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_pil_bilinear"]

_WEIGHT_BITS = 22
"""Fraction bits of Pillow's fixed-point weights: 32, less 8 of the pixel and 2 of head room."""


def resize_pil_bilinear(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as ``PIL.Image.resize(size, Image.Resampling.BILINEAR)``, without keeping the aspect ratio.

    Args:
        image: uint8 (H, W) or (H, W, C), at least one pixel.
        size_hw: Height and width wanted, in pixels.

    Returns:
        uint8 (height, width) or (height, width, C), C-contiguous.
    """
    # The order matters, for each axis is rounded. Pillow resizes along the rows first: always up to version
    # 12, from 13 on unless the height shrinks much more than the width (python-pillow/Pillow#9549).
    return _resize_axis(_resize_axis(image, size_hw[1], axis=1), size_hw[0], axis=0)


def _resize_axis(image: NDArray[np.uint8], length: int, *, axis: int) -> NDArray[np.uint8]:
    if image.shape[axis] == length:
        return np.ascontiguousarray(image)
    last = np.moveaxis(image, axis, -1)  # (H, W, C) -> (H, C, W), and so on
    rows = _bilinear(np.ascontiguousarray(last).reshape(-1, image.shape[axis]), length)
    return np.ascontiguousarray(np.moveaxis(rows.reshape(*last.shape[:-1], length), -1, axis))


def _bilinear(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Resize the last axis: uint8 (H, W) -> (H, width)."""
    starts, weights = _triangle_weights(image.shape[1], width)
    # Most of a mask is empty, and stays so.
    drawn = np.flatnonzero(image.any(axis=1))
    rows = image[drawn]
    total = np.full((len(drawn), width), 1 << (_WEIGHT_BITS - 1), np.int32)
    for tap, tap_weights in enumerate(weights):
        # A tap beyond the edge has weight 0.
        total += rows[:, np.minimum(starts + tap, image.shape[1] - 1)] * tap_weights
    resized = np.zeros((image.shape[0], width), np.uint8)
    resized[drawn] = np.clip(total >> _WEIGHT_BITS, 0, 255)
    return resized


@lru_cache(maxsize=64)
def _triangle_weights(length: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the first source pixel of each output pixel (wanted,) and its weights (taps, wanted), 22-bit."""
    scale = length / wanted
    # Shrinking widens the triangle to the pixels it covers; enlarging interpolates between two.
    reach = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    starts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    taps = np.arange(int((ends - starts).max()))[:, np.newaxis]
    weights = np.maximum(1.0 - np.abs((taps + starts - centres + 0.5) * (1.0 / reach)), 0.0)
    weights[taps >= ends - starts] = 0.0
    # Summed tap by tap: another order would round some weights otherwise than Pillow.
    weights /= np.cumsum(weights, axis=0)[-1]
    return starts, (weights * (1 << _WEIGHT_BITS) + 0.5).astype(np.int32)
