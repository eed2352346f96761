"""Ground-truth masks at the size of the anomaly maps, by the conventions of the literature.

Pixel metrics differ between conventions, so each has a name that is reported with the figures. The default
and its stricter sister follow Pillow's antialiased bilinear resize bit for bit, without Pillow: each pixel is
the weighted mean of the region of the mask under it, rounded to 8 bits after each axis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, InputError

__all__ = ["CONVENTIONS", "DEFAULT_CONVENTION", "MaskConvention", "require_convention", "resize_mask"]

MaskConvention = Literal["pil-bilinear>0", "pil-bilinear>0.5", "nearest"]
"""How a mask comes to the size of the map: any anomalous part under a pixel counts (CADA's author), at least
half of it (RD4AD, ADer), or the mask's pixel nearest to the centre (UniAD)."""

CONVENTIONS: tuple[str, ...] = get_args(MaskConvention)
DEFAULT_CONVENTION: MaskConvention = "pil-bilinear>0"

_WEIGHT_BITS = 22
"""Fraction bits of Pillow's fixed-point weights: 32, less 8 of the pixel and 2 of head room."""


def require_convention(convention: str) -> None:
    """Refuse what is no mask convention.

    Raises:
        ConfigError: An unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(
            f"The mask convention {convention!r} came; wanted one of {', '.join(CONVENTIONS)}. "
            f"Leave it out for {DEFAULT_CONVENTION}."
        )


def resize_mask(
    mask: NDArray[np.uint8], size_hw: tuple[int, int], convention: str = DEFAULT_CONVENTION
) -> NDArray[np.uint8]:
    """Bring a mask to another size; every result is 0 or 1.

    Args:
        mask: uint8 (H, W); what is not 0 is anomalous.
        size_hw: Height and width wanted, in pixels.
        convention: One of `CONVENTIONS`.

    Returns:
        uint8 (height, width), 0 or 1, C-contiguous; equal in each pixel to Pillow's resize and the threshold.

    Raises:
        ConfigError: An unknown convention.
        InputError: A mask that is not two-dimensional, or a size without pixels.
    """
    require_convention(convention)
    if mask.ndim != 2 or mask.size == 0 or min(size_hw) < 1:
        raise InputError(
            f"A mask of shape {mask.shape} came, to be resized to {tuple(size_hw)}; wanted (H, W) and sizes "
            "of at least one pixel. Read masks with cada_edge.runtime.images.read_mask."
        )
    binary = (mask != 0).astype(np.uint8)
    if convention == "nearest":
        rows = _nearest(binary.shape[0], size_hw[0])
        columns = _nearest(binary.shape[1], size_hw[1])
        return np.ascontiguousarray(binary[rows[:, np.newaxis], columns])
    # The order matters, for each axis is rounded. Pillow resizes along the rows first: always up to version
    # 12, from 13 on unless the height shrinks much more than the width (python-pillow/Pillow#9549).
    across = _bilinear(binary * np.uint8(255), size_hw[1])
    grey = _bilinear(np.ascontiguousarray(across.T), size_hw[0]).T
    limit = 0 if convention == "pil-bilinear>0" else 127
    return np.ascontiguousarray(grey > limit).astype(np.uint8)


def _bilinear(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Resize the last axis: uint8 (H, W) -> (H, width)."""
    if image.shape[1] == width:
        return image
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


@lru_cache(maxsize=64)
def _nearest(length: int, wanted: int) -> NDArray[np.int64]:
    """Return the source pixel of each output pixel."""
    scale = length / wanted
    # Pillow adds the step up instead of multiplying; its rounding decides where a centre meets an edge.
    steps = np.full(wanted, scale)
    steps[0] = 0.5 * scale
    return np.minimum(np.cumsum(steps).astype(np.int64), length - 1)
