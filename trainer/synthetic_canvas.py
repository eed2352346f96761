"""What the procedural parts are drawn with: unit coordinates, noise, coverage, light and the camera.

Everything is placed in unit coordinates (0 to 1 across the image), and random fields are drawn on
lattices whose size does not depend on the image's: the same scene comes out at 128 and at 256 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
"""float32 throughout; a plane is (S, S), an image (S, S, 3) BGR in grey levels, 0-255."""

Colour: TypeAlias = tuple[float, float, float]
"""Blue, green, red in grey levels."""

SENSOR_NOISE_FLOOR = 0.7
"""Standard deviation of the read-out noise in grey levels."""
SENSOR_NOISE_SHOT = 0.05
"""Shot noise: standard deviation in grey levels per square root of a grey level."""
LENS_BLUR = 0.0018
"""Standard deviation of the lens's blur in unit coordinates: just under half a pixel at 256."""

_FINE = 4
_SHIFT = 4
_FINER = 8


@dataclass(frozen=True)
class Spot:
    """The place of one component of a part: a box in unit coordinates, turned by `angle` radians."""

    x: float
    y: float
    half_width: float
    half_height: float
    angle: float = 0.0


@dataclass(frozen=True)
class Drawing:
    """A part before the camera: what it shows, and what a defect needs to know about it."""

    image: FloatArray
    """(S, S, 3) BGR."""
    surface: FloatArray
    """(S, S) coverage, 0-1: where the part is, and so where it can be damaged."""
    bare: FloatArray
    """(S, S, 3) BGR: the same part without its components; equal to `image` for kinds without any."""
    spots: tuple[Spot, ...] = ()
    """Where the components are."""


@dataclass(frozen=True)
class Pose:
    """Where the part lies: its centre in unit coordinates and its angle in radians."""

    x: float
    y: float
    angle: float

    def local(self, size: int) -> tuple[FloatArray, FloatArray]:
        """Return the part's own coordinates of every pixel: two (S, S) planes, zero at its centre."""
        x, y = unit_grid(size)
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def place(self, u: float, v: float) -> tuple[float, float]:
        """Return the unit coordinates of the point (u, v) of the part."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + u * cos - v * sin, self.y + u * sin + v * cos

    def lay(self, spot: Spot) -> Spot:
        """Move a box from the part's coordinates to the image's."""
        x, y = self.place(spot.x, spot.y)
        return Spot(x, y, spot.half_width, spot.half_height, spot.angle + self.angle)


class Stencil:
    """Shapes in unit coordinates, rasterised at four times the size: coverage without jagged edges."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fine: NDArray[np.uint8] = np.zeros((size * _FINE, size * _FINE), np.uint8)

    def line(self, points: Sequence[tuple[float, float]] | FloatArray, width: float) -> Stencil:
        """Draw an open line through `points`, `width` thick in unit coordinates."""
        thickness = max(1, round(width * self._size * _FINE))
        cv2.polylines(self._fine, [self._fixed(points)], False, 255, thickness, cv2.LINE_8, _SHIFT)
        return self

    def boxes(self, spots: Sequence[Spot]) -> Stencil:
        """Fill the boxes of `spots`."""
        place = np.array([(spot.x, spot.y, spot.half_width, spot.half_height, spot.angle) for spot in spots])
        cos, sin = np.cos(place[:, 4:]), np.sin(place[:, 4:])
        u, v = place[:, 2:3] * (-1, 1, 1, -1), place[:, 3:4] * (-1, -1, 1, 1)  # (N, 4): one corner each
        corners = np.stack([place[:, :1] + u * cos - v * sin, place[:, 1:2] + u * sin + v * cos], axis=2)
        for polygon in self._fixed(corners):
            cv2.fillConvexPoly(self._fine, polygon, 255, cv2.LINE_8, _SHIFT)
        return self

    def disc(self, x: float, y: float, radius: float) -> Stencil:
        """Fill a circle."""
        centre = self._fixed([(x, y)])[0]
        fixed_radius = round(radius * self._size * _FINE * 2**_SHIFT)
        cv2.circle(self._fine, centre.tolist(), fixed_radius, 255, cv2.FILLED, cv2.LINE_8, _SHIFT)
        return self

    def coverage(self) -> FloatArray:
        """Return the part of each pixel that is covered: (S, S), 0-1."""
        mean = cv2.resize(self._fine, (self._size, self._size), interpolation=cv2.INTER_AREA)
        cover: FloatArray = mean.astype(np.float32) / np.float32(255)
        return cover

    def _fixed(self, points: Sequence[tuple[float, float]] | FloatArray) -> NDArray[np.int32]:
        fine = np.asarray(points, np.float64) * (self._size * _FINE) - 0.5
        fixed: NDArray[np.int32] = np.rint(fine * 2**_SHIFT).astype(np.int32)
        return fixed


@lru_cache(maxsize=16)
def unit_grid(size: int) -> tuple[FloatArray, FloatArray]:
    """Return x and y of every pixel's centre: two read-only (S, S) planes."""
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x = np.ascontiguousarray(np.broadcast_to(centres, (size, size)))
    y = np.ascontiguousarray(x.T)
    x.flags.writeable = False
    y.flags.writeable = False
    return x, y


def random_pose(rng: np.random.Generator, *, shift: float = 0.03, turn: float = 0.08) -> Pose:
    """Lay a part down near the centre, off by at most `shift` (unit) and `turn` (radians)."""
    dx, dy, angle = rng.uniform(-1.0, 1.0, 3)
    return Pose(0.5 + shift * float(dx), 0.5 + shift * float(dy), turn * float(angle))


def noise(rng: np.random.Generator, size: int, cells: int, cells_down: int | None = None) -> FloatArray:
    """Return smooth noise of mean 0 and deviation near 1: `cells` across and `cells_down` down."""
    lattice = rng.standard_normal((cells_down or cells, cells)).astype(np.float32)
    way = cv2.INTER_AREA if min(lattice.shape) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(lattice, (size, size), interpolation=way), np.float32)


def fractal(rng: np.random.Generator, size: int, cells: int, octaves: int = 3) -> FloatArray:
    """Return noise with detail at `octaves` scales, each half as wide and half as strong as the last."""
    total = noise(rng, size, cells)
    for octave in range(1, octaves):
        total += noise(rng, size, cells * 2**octave) * np.float32(0.5**octave)
    return total


def sample(lattice: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """Look a repeating lattice up at (u, v), one turn per unit.

    By a finer copy and its nearest point: cv2.remap rounds differently from one OpenCV to the next.
    """
    height, width = lattice.shape[0] * _FINER, lattice.shape[1] * _FINER
    padded = np.pad(lattice, 1, mode="wrap")
    finer = cv2.resize(padded, (width + 2 * _FINER, height + 2 * _FINER), interpolation=cv2.INTER_LINEAR)
    turn = np.ascontiguousarray(finer[_FINER:-_FINER, _FINER:-_FINER], lattice.dtype)
    across = np.floor(u * np.float32(width)).astype(np.int32) % np.int32(width)
    down = np.floor(v * np.float32(height)).astype(np.int32) % np.int32(height)
    found: FloatArray = np.take(turn, down * np.int32(width) + across)
    return found


def edge(distance: FloatArray, size: int, softness: float = 0.0) -> FloatArray:
    """Turn a signed distance (unit, negative inside) into coverage; `softness` widens the edge."""
    cover: FloatArray = np.clip(np.float32(0.5) - distance / np.float32(1.0 / size + softness), 0, 1)
    return cover


def flat(size: int, colour: Colour) -> FloatArray:
    """Return an image of one colour."""
    return np.full((size, size, 3), colour, np.float32)


def paint(image: FloatArray, colour: Colour | FloatArray, coverage: FloatArray) -> None:
    """Lay a colour, or another image, over `image` in place."""
    image += (np.asarray(colour, np.float32) - image) * coverage[..., None]


def shade(image: FloatArray, plane: FloatArray, coverage: FloatArray | None = None) -> None:
    """Brighten `image` in place by the factor 1 + plane, where covered."""
    factor = plane if coverage is None else plane * coverage
    image *= np.float32(1) + factor[..., None]


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """Return a colour that varies in brightness by `amount` (relative) and a third of that in hue."""
    level = rng.uniform(-amount, amount)
    hue = rng.uniform(-amount / 3, amount / 3, 3)
    blue, green, red = (channel * (1 + level + float(h)) for channel, h in zip(colour, hue, strict=True))
    return float(blue), float(green), float(red)


def blur(image: FloatArray, sigma: float) -> FloatArray:
    """Blur by a Gaussian whose deviation is given in unit coordinates."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.05, sigma * image.shape[0])), np.float32)


def shrink(drawing: Drawing, size: int) -> Drawing:
    """Average a drawing made at a higher resolution down to `size`."""
    same = drawing.bare is drawing.image
    planes = [
        np.asarray(cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA), np.float32)
        for plane in (drawing.image, drawing.surface, *(() if same else (drawing.bare,)))
    ]
    return Drawing(planes[0], planes[1], planes[0] if same else planes[2], drawing.spots)


def light(rng: np.random.Generator, size: int, strength: float) -> FloatArray:
    """Return the illumination: a gain that varies between images and falls off across each."""
    gain, tilt_x, tilt_y, centre_x, centre_y = rng.uniform(-1.0, 1.0, 5)
    x, y = unit_grid(size)
    dx, dy = x - np.float32(0.5 + 0.1 * centre_x), y - np.float32(0.5 + 0.1 * centre_y)
    plane = np.float32(1 + strength * gain) + np.float32(strength * tilt_x) * dx
    plane = plane + np.float32(strength * tilt_y) * dy
    fallen: FloatArray = plane - np.float32(0.12) * (dx * dx + dy * dy)
    return fallen


def sensor_noise(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Return the camera's noise for an image: read-out noise and shot noise, (S, S, 3)."""
    deviation = np.float32(SENSOR_NOISE_FLOOR) + np.float32(SENSOR_NOISE_SHOT) * np.sqrt(np.maximum(image, 0))
    grain: FloatArray = rng.standard_normal(image.shape, np.float32) * deviation
    return grain


def to_uint8(image: FloatArray) -> NDArray[np.uint8]:
    """Round to whole grey levels."""
    rounded: NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return rounded
