"""Ground-truth masks at the size of the anomaly maps, by the conventions of the literature.

Pixel metrics differ between conventions, so each has a name that is reported with the figures. The default
and its stricter sister are Pillow's antialiased bilinear resize and a limit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, InputError
from cada_edge.runtime.pil_bilinear import resize_pil_bilinear

__all__ = ["CONVENTIONS", "DEFAULT_CONVENTION", "MaskConvention", "require_convention", "resize_mask"]

MaskConvention = Literal["pil-bilinear>0", "pil-bilinear>0.5", "nearest"]
"""How a mask comes to the size of the map: any anomalous part under a pixel counts (CADA's author), at least
half of it (RD4AD, ADer), or the mask's pixel nearest to the centre (UniAD)."""

CONVENTIONS: tuple[str, ...] = get_args(MaskConvention)
DEFAULT_CONVENTION: MaskConvention = "pil-bilinear>0"


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
    grey = resize_pil_bilinear(binary * np.uint8(255), size_hw)
    limit = 0 if convention == "pil-bilinear>0" else 127
    return np.ascontiguousarray(grey > limit).astype(np.uint8)


@lru_cache(maxsize=64)
def _nearest(length: int, wanted: int) -> NDArray[np.int64]:
    """Return the source pixel of each output pixel."""
    scale = length / wanted
    # Pillow adds the step up instead of multiplying; its rounding decides where a centre meets an edge.
    steps = np.full(wanted, scale)
    steps[0] = 0.5 * scale
    return np.minimum(np.cumsum(steps).astype(np.int64), length - 1)
