"""How strong a defect must be for a person to just see it: a model of contrast masking.

A faint scratch shows on a glazed tile and drowns in gravel. Every defect is therefore scaled to the same
visibility, not to the same number of grey levels:

    masking = (1 + contrast / MASKING_CONTRAST) ** MASKING_EXPONENT
    threshold = JUST_VISIBLE * (1 + FINE_WIDTH / width) * masking

with the defect's width, and the contrast of the good part around it at the defect's scale and finer. The
shape is the classic one of masking by texture and of the eye's fall-off at fine detail (Legge and Foley
1980); the constants are set by eye, and are the only place where the line's difficulty is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cada_edge.trainer.synthetic_canvas import FloatArray, blur
from cada_edge.trainer.synthetic_parts import Part

__all__ = ["Flaw", "apply_flaw", "visibility_threshold"]

JUST_VISIBLE = 5.0
"""Grey levels at which a wide patch on a perfectly even surface just shows; sets the whole line's level."""
FINE_WIDTH = 0.008
"""Width (unit) at which a defect needs twice the contrast of a wide one."""
MASKING_CONTRAST = 5.0
"""Local contrast in grey levels (RMS) that starts to hide a defect."""
MASKING_EXPONENT = 1.0
"""How fast the threshold grows with the contrast around, 0.7 to 1 in experiments on people; sets the balance
of busy against smooth kinds."""
NEIGHBOURHOOD = 0.025
"""Deviation (unit) of the Gaussian window in which the contrast around a point is taken."""
SCALE_LIMITS = (0.02, 0.05)
"""Deviation (unit) of the blur that divides detail, which masks, from shading, which does not."""
STRUCTURE_GAIN = 3.0
"""A missing component keeps a clean outline, so it is shown this much above the threshold."""


@dataclass(frozen=True)
class Flaw:
    """The shape of a defect before its strength is set."""

    pattern: FloatArray
    """(S, S, 3): the signed change per channel; in any unit, or in grey levels if `structural`."""
    footprint: NDArray[np.bool_]
    """(S, S): the pixels that change, and so the ground-truth mask."""
    width: float
    """The narrow side of the defect in unit coordinates."""
    structural: bool = False
    """The pattern is the difference to another real state of the part and is never exaggerated."""


def visibility_threshold(part: Part, flaw: Flaw) -> float:
    """Return the change in grey levels that a person just sees at the flaw's place on this part."""
    grey = np.asarray(cv2.cvtColor(part.image, cv2.COLOR_BGR2GRAY), np.float32)
    detail = grey - blur(grey, float(np.clip(3 * flaw.width, *SCALE_LIMITS)))
    # A surface defect is looked for on the surface; a component stands among outlines that hide it.
    where = np.ones_like(grey) if flaw.structural else part.surface
    power = blur(np.square(detail) * where, NEIGHBOURHOOD)
    present = np.maximum(blur(where, NEIGHBOURHOOD), np.float32(0.05))
    # It is found where the part hides it least, not where it crosses an outline.
    contrast = float(np.sqrt(np.percentile((power / present)[flaw.footprint], 25)))
    masking = (1 + contrast / MASKING_CONTRAST) ** MASKING_EXPONENT
    return float(JUST_VISIBLE * (1 + FINE_WIDTH / flaw.width) * masking)


def apply_flaw(part: Part, flaw: Flaw, strength: float) -> NDArray[np.uint8]:
    """Return the part's image with the flaw at `strength` times its visibility threshold.

    Outside the flaw's footprint the image is the part's, byte for byte.
    """
    peak = float(np.percentile(np.abs(flaw.pattern).max(axis=2)[flaw.footprint], 90))
    amplitude = strength * visibility_threshold(part, flaw)
    if flaw.structural:
        scale = min(1.0, STRUCTURE_GAIN * amplitude / max(peak, 1.0))
    else:
        scale = amplitude / max(peak, 1e-3)
        scale *= _direction(part, flaw, amplitude)
    changed = part.image + flaw.pattern * np.float32(scale)
    changed = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return np.where(flaw.footprint[..., None], changed, part.image)


def _direction(part: Part, flaw: Flaw, amplitude: float) -> float:
    """Return -1 where a darkening has no room on a dark part, or a brightening none on a white one."""
    level = float(part.image[flaw.footprint].mean())
    sign = float(np.sign(flaw.pattern[flaw.footprint].mean()))
    return -1.0 if level + sign * amplitude * 1.2 < 0 or level + sign * amplitude > 250 else 1.0
