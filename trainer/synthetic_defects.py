"""Defective parts of the procedural line: which defects a kind can have, and parts that have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError
from cada_edge.trainer.synthetic_flaws import (
    crack,
    dent,
    fibre,
    hole,
    misplaced,
    missing,
    rust,
    scratch,
    stain,
)
from cada_edge.trainer.synthetic_parts import Part
from cada_edge.trainer.synthetic_visibility import Flaw, apply_flaw

__all__ = ["AREA_LIMITS", "DEFECTS", "Defective", "draw_defect"]

AREA_LIMITS = (0.001, 0.05)
"""Smallest and largest area of a defect, as a part of the image."""

_ATTEMPTS = 64

DEFECTS: Mapping[str, Mapping[str, Callable[[Part, np.random.Generator], Flaw | None]]] = {
    "bottle_cap": {"dent": dent, "fibre": fibre, "scratch": scratch},
    "brushed_metal": {"dent": dent, "scratch": scratch, "stain": stain},
    "ceramic_tile": {"crack": crack, "pit": hole, "stain": stain},
    "circuit_board": {"misplaced_part": misplaced, "missing_part": missing, "scratch": scratch},
    "connector": {"crack": crack, "displaced_pin": misplaced, "missing_pin": missing},
    "gear": {"broken_tooth": missing, "rust": rust, "scratch": scratch},
    "pill": {"crack": crack, "dent": dent, "fibre": fibre, "discolouration": stain},
    "terrazzo": {"crack": crack, "pit": hole, "stain": stain},
    "wood": {"hole": hole, "scratch": scratch, "stain": stain},
    "woven_fabric": {"cut_thread": missing, "fibre": fibre, "stain": stain},
}
"""The defects of each kind by the name of their folder."""


@dataclass(frozen=True)
class Defective:
    """A part with a defect, and where the defect is."""

    image: NDArray[np.uint8]
    """(S, S, 3) BGR; equal to the good part outside the mask."""
    mask: NDArray[np.uint8]
    """(S, S), 255 on the defect and 0 elsewhere."""


def draw_defect(
    kind: str, part: Part, rng: np.random.Generator, *, defect: str, strength: float = 1.0
) -> Defective:
    """Damage a good part.

    Args:
        kind: What the part is.
        part: The good part, from `photograph_part`.
        rng: Where the defect's place and shape come from.
        defect: One of the names in `DEFECTS[kind]`.
        strength: Multiple of what a person just sees on this part.

    Raises:
        ConfigError: The kind does not have this defect.
    """
    names = DEFECTS.get(kind, {})
    if defect not in names:
        wanted = f"one of {', '.join(names)}" if names else f"a kind among {', '.join(DEFECTS)}"
        raise ConfigError(
            f"defect is {defect!r} of kind {kind!r}; wanted {wanted}. "
            "Choose a name from cada_edge.trainer.synthetic_defects.DEFECTS."
        )
    for _ in range(_ATTEMPTS):
        flaw = names[defect](part, rng)
        if flaw is None or not AREA_LIMITS[0] <= float(flaw.footprint.mean()) <= AREA_LIMITS[1]:
            continue
        image = apply_flaw(part, flaw, strength)
        return Defective(image, flaw.footprint.astype(np.uint8) * np.uint8(255))
    raise AssertionError(f"no {defect} fits on {kind} after {_ATTEMPTS} attempts")
