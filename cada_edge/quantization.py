"""How a model file was quantised to INT8: the part of a manifest that only such files have."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Quantization"]


@dataclass(frozen=True)
class Quantization:
    """Where the ranges of an INT8 file come from, and what computes in INT8."""

    images: int
    """Good parts that the ranges of the activations were taken from."""
    images_found: int
    """Good parts in the folder, of which those were chosen evenly."""
    source: str
    """The folder, in words."""
    data_fingerprint: str
    """SHA-256 over the chosen images' names and bytes."""
    method: str
    """How a range follows from the values seen: 'minmax'."""
    int8_layers: int
    """Convolutions that compute in INT8."""
    int8_share: float
    """Their share of the multiplications of the whole graph, 0-1."""
    fp32_layers: tuple[str, ...] = ()
    """Convolutions of the networks that stayed in fp32 since the parity limit does not hold with them, named
    by their weights, in the order in which they were given up."""

    def is_possible(self) -> bool:
        """Tell whether an export could have written these values."""
        return (
            1 <= self.images <= self.images_found
            and self.int8_layers >= 1
            and 0 < self.int8_share <= 1
            and re.fullmatch("[0-9a-f]{64}", self.data_fingerprint) is not None
        )
