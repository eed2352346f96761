"""Normal parts of the procedural line: from a kind's name and a random generator to a camera's image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError
from cada_edge.trainer.synthetic_board import circuit_board
from cada_edge.trainer.synthetic_canvas import (
    LENS_BLUR,
    Drawing,
    FloatArray,
    Spot,
    blur,
    light,
    sensor_noise,
    shrink,
    to_uint8,
)
from cada_edge.trainer.synthetic_objects import bottle_cap, connector, gear, pill
from cada_edge.trainer.synthetic_textures import brushed_metal, ceramic_tile, terrazzo, wood, woven_fabric

__all__ = ["KINDS", "Part", "draw_part", "photograph_part"]


@dataclass(frozen=True)
class _Recipe:
    """How a kind is drawn: its function, the factor it is drawn larger by, how unsteady its light is."""

    draw: Callable[[np.random.Generator, int], Drawing]
    oversampling: int = 1
    light: float = 0.04


_RECIPES = {
    "bottle_cap": _Recipe(bottle_cap),
    "brushed_metal": _Recipe(brushed_metal, oversampling=2),
    "ceramic_tile": _Recipe(ceramic_tile, light=0.03),
    "circuit_board": _Recipe(circuit_board),
    "connector": _Recipe(connector),
    "gear": _Recipe(gear),
    "pill": _Recipe(pill),
    "terrazzo": _Recipe(terrazzo),
    "wood": _Recipe(wood, oversampling=2),
    "woven_fabric": _Recipe(woven_fabric, oversampling=2),
}

KINDS: tuple[str, ...] = tuple(_RECIPES)
"""Every kind of part that the line can carry."""


@dataclass(frozen=True)
class Part:
    """A photographed part, with what a defect needs to know about it."""

    image: NDArray[np.uint8]
    """(S, S, 3) BGR."""
    surface: FloatArray
    """(S, S), 0-1: where the part is."""
    bare: FloatArray
    """(S, S, 3) BGR, 0-255: the same photograph with all components missing."""
    spots: tuple[Spot, ...]
    """Where the components are."""


def photograph_part(kind: str, rng: np.random.Generator, size: int) -> Part:
    """Draw one good part and photograph it: light, lens and sensor noise.

    The scene does not depend on `size`: the same generator state gives the same part at 128 and 256.

    Raises:
        ConfigError: There is no such kind.
    """
    if kind not in _RECIPES:
        raise ConfigError(
            f"kind is {kind!r}; wanted one of {', '.join(KINDS)}. Correct the name of the kind."
        )
    recipe = _RECIPES[kind]
    drawing = recipe.draw(rng, size * recipe.oversampling)
    if recipe.oversampling > 1:
        drawing = shrink(drawing, size)
    gain = light(rng, size, recipe.light)[..., None]
    exposed = blur(drawing.image * gain, LENS_BLUR)
    # The sensor's noise is the only draw whose length depends on the size, so it comes last.
    grain = sensor_noise(rng, exposed)
    image = to_uint8(exposed + grain)
    if drawing.bare is drawing.image:
        return Part(image, drawing.surface, image.astype(np.float32), drawing.spots)
    bare = blur(drawing.bare * gain, LENS_BLUR) + grain
    return Part(image, drawing.surface, bare, drawing.spots)


def draw_part(kind: str, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Return the image of one good part: uint8 (size, size, 3), BGR."""
    return photograph_part(kind, rng, size).image
