"""The shapes of defects: each function draws one onto a part, or gives up and returns None."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from cada_edge.trainer.synthetic_canvas import (
    Colour,
    FloatArray,
    Pose,
    Spot,
    Stencil,
    blur,
    edge,
    fractal,
    noise,
    to_uint8,
)
from cada_edge.trainer.synthetic_parts import Part
from cada_edge.trainer.synthetic_visibility import Flaw

__all__ = ["crack", "dent", "fibre", "hole", "misplaced", "missing", "rust", "scratch", "stain"]

_GRID = 64
_OUTLINE = 24.0  # grey levels by which a component stands out from what is under it
# How much of each channel, blue first, a defect takes away or adds.
_NEUTRAL = (1.0, 1.0, 1.0)
_STAINS = ((1.0, 0.72, 0.45), (0.45, 0.7, 1.0), (0.8, 0.55, 0.9), (1.0, 1.0, 1.0))
_RUSTS = ((1.0, 0.72, 0.4), (1.0, 0.6, 0.25))
_FIBRES = ((1.0, 1.0, 1.0), (1.0, 0.75, 0.35), (0.3, 0.85, 1.0))


def scratch(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Draw a long, slightly bent scratch: a bright burr beside a dark groove."""
    place = _place(part, rng, 0.03)
    direction, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.7, 0.7)
    length, width = float(rng.uniform(0.20, 0.40)), float(rng.uniform(0.007, 0.012))
    sign = float(rng.choice((-1, 1)))
    if place is None:
        return None
    along = np.linspace(-0.5, 0.5, 15)
    headings = direction + bend * along
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / len(along)
    points = np.asarray(place) + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    normal = np.array([-np.sin(direction), np.cos(direction)]) * width
    size = len(part.image)
    groove = Stencil(size).line(points, width).coverage()
    burr = Stencil(size).line(points + normal, width).coverage()
    pattern = (groove - np.float32(0.55) * burr) * np.float32(sign)
    pattern *= np.float32(0.85) + np.float32(0.15) * np.clip(noise(rng, size, 24), -1, 1)
    return _flaw(part, pattern, np.maximum(groove, burr), _NEUTRAL, 1.6 * width)


def crack(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Draw a jagged dark crack with one branch."""
    place = _place(part, rng, 0.024)
    direction, length = rng.uniform(0, 2 * np.pi), float(rng.uniform(0.20, 0.34))
    width = float(rng.uniform(0.007, 0.012))
    turns = rng.normal(0, 0.55, 16)
    branch_turn, branch_at = float(rng.choice((-0.8, 0.8))), int(rng.integers(5, 10))
    if place is None:
        return None
    # Each turn is partly taken back, so that the crack stays jagged but goes somewhere.
    headings = direction + turns - 0.6 * np.concatenate([[0.0], turns[:-1]])
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / len(turns)
    points = np.asarray(place) + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    cos, sin = np.cos(branch_turn), np.sin(branch_turn)
    side = steps[branch_at : branch_at + 5] @ np.array([[cos, sin], [-sin, cos]])
    branch = points[branch_at] + np.concatenate([np.zeros((1, 2)), np.cumsum(side, axis=0)])
    stencil = Stencil(len(part.image)).line(points, width).line(branch, width * 0.7)
    cover = stencil.coverage()
    return _flaw(part, -cover, cover, _NEUTRAL, width)


def fibre(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Lay a curled textile fibre on the part."""
    place = _place(part, rng, 0.05)
    direction, length = rng.uniform(0, 2 * np.pi), float(rng.uniform(0.24, 0.4))
    width, curl = float(rng.uniform(0.007, 0.010)), rng.uniform(2.0, 5.0) * rng.choice((-1, 1))
    wave = rng.uniform(0, 2 * np.pi)
    colour = _FIBRES[int(rng.integers(len(_FIBRES)))]
    sign = float(rng.choice((-1, 1)))
    if place is None:
        return None
    along = np.linspace(-0.5, 0.5, 40)
    headings = direction + curl * along + 0.7 * np.sin(7 * along + wave)
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / len(along)
    points = np.asarray(place) + np.cumsum(steps, axis=0) - steps.sum(axis=0) / 2
    cover = Stencil(len(part.image)).line(points, width).coverage()
    return _flaw(part, cover * np.float32(sign), cover, colour, width)


def rust(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Draw a stain in the colours of rust."""
    return stain(part, rng, colours=_RUSTS)


def stain(part: Part, rng: np.random.Generator, *, colours: Sequence[Colour] = _STAINS) -> Flaw | None:
    """Draw a blotch of another shade with an uneven outline."""
    radius = float(rng.uniform(0.045, 0.10))
    place = _place(part, rng, 0.8 * radius)
    colour = colours[int(rng.integers(len(colours)))]
    size = len(part.image)
    outline = noise(rng, size, 11) * np.float32(0.28) + noise(rng, size, 23) * np.float32(0.12)
    body = np.float32(0.85) + np.float32(0.12) * np.clip(fractal(rng, size, 16, 2), -1, 1)
    if place is None:
        return None
    u, v = Pose(*place, 0.0).local(size)
    distance = np.hypot(u, v) - np.float32(radius) * (np.float32(1) + outline)
    cover = edge(distance, size, 0.35 * radius)
    # Liquids dry to a slightly darker rim.
    rim = np.exp(-((distance / np.float32(0.14 * radius)) ** 2)) * np.float32(0.3)
    return _flaw(part, -cover * (body + rim), cover, colour, radius)


def dent(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Draw a dent or a bump, seen only by its shading: one flank lighter, the other darker."""
    radius = float(rng.uniform(0.045, 0.08))
    place = _place(part, rng, radius)
    turn, stretch = rng.uniform(0, np.pi), float(rng.uniform(1.0, 1.5))
    sign = float(rng.choice((-1, 1)))
    if place is None:
        return None
    u, v = Pose(*place, float(turn)).local(len(part.image))
    u, v = u / np.float32(radius * stretch), v / np.float32(radius)
    height = np.exp(-(u * u + v * v))
    light_u, light_v = np.cos(turn - 0.8), -np.sin(turn - 0.8)
    pattern = (u * np.float32(light_u) + v * np.float32(light_v)) * height * np.float32(2.2 * sign)
    return _flaw(part, pattern, np.clip(height * np.float32(2), 0, 1), _NEUTRAL, 1.2 * radius)


def hole(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Draw a pit: a dark floor, and light caught by its far rim."""
    radius = float(rng.uniform(0.026, 0.045))
    place = _place(part, rng, 1.3 * radius)
    size = len(part.image)
    ragged = noise(rng, size, 30) * np.float32(0.1)
    if place is None:
        return None
    u, v = Pose(*place, 0.0).local(size)
    r = np.hypot(u, v)
    floor = edge(r - np.float32(radius) * (np.float32(1) + ragged), size, 0.25 * radius)
    rim = np.exp(-(((r - np.float32(1.1 * radius)) / np.float32(0.22 * radius)) ** 2))
    rim *= np.clip((u + v) / np.float32(1.4 * radius), 0, 1)
    depth = np.clip((u + v) / np.float32(4 * radius) - np.float32(0.75), -1, 0)
    pattern = depth * floor + np.float32(0.6) * rim
    return _flaw(part, pattern, np.maximum(floor, rim), _NEUTRAL, radius)


def missing(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Take one component away."""
    if not part.spots:
        return None
    spot = part.spots[int(rng.integers(len(part.spots)))]
    size = len(part.image)
    cover = blur(Stencil(size).boxes([spot]).coverage(), 0.002)
    return _structural(part, (part.bare - part.image) * cover[..., None], spot)


def misplaced(part: Part, rng: np.random.Generator) -> Flaw | None:
    """Set one component down beside its place and askew."""
    if not part.spots:
        return None
    spot = part.spots[int(rng.integers(len(part.spots)))]
    direction, turn = rng.uniform(0, 2 * np.pi), float(rng.uniform(0.25, 0.7)) * float(rng.choice((-1, 1)))
    distance = float(rng.uniform(0.8, 1.4)) * min(spot.half_width, spot.half_height)
    size = len(part.image)
    cover = blur(Stencil(size).boxes([spot]).coverage(), 0.002)
    off = (part.bare - part.image) * cover[..., None]
    own = np.clip(np.abs(off).max(axis=2) / np.float32(_OUTLINE), 0, 1)
    own = np.asarray(cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)), np.float32)
    component = np.dstack([part.image, to_uint8(own * np.float32(255))])  # (S, S, 4): the last is its shape
    x, y = spot.x + distance * np.cos(direction), spot.y + distance * np.sin(direction)
    moved = _moved(component, (spot.x, spot.y), Pose(float(x), float(y), turn)).astype(np.float32)
    there = moved[..., 3:] / np.float32(255)
    return _structural(part, (moved[..., :3] - part.image - off) * there + off, spot)


def _moved(image: NDArray[np.uint8], centre: tuple[float, float], pose: Pose) -> NDArray[np.uint8]:
    """Turn and shift an image: what was at `centre` comes to lie in `pose`."""
    size, finer = len(image), 4 * len(image)
    # As in `sample`: the nearest point of a finer copy is the same in every OpenCV.
    fine = cv2.resize(image, (finer, finer), interpolation=cv2.INTER_LINEAR)
    u, v = pose.local(size)
    across = np.floor((u + np.float32(centre[0])) * np.float32(finer)).astype(np.int32)
    down = np.floor((v + np.float32(centre[1])) * np.float32(finer)).astype(np.int32)
    index = np.clip(down, 0, finer - 1) * np.int32(finer) + np.clip(across, 0, finer - 1)
    return np.asarray(np.take(fine.reshape(-1, fine.shape[2]), index, axis=0), np.uint8)


def _place(part: Part, rng: np.random.Generator, margin: float) -> tuple[float, float] | None:
    """Return a point of the part with `margin` (unit) of part around it, or None if none was hit."""
    # Read on a grid of one size for every image, so that the place does not depend on the image's.
    surface = cv2.resize(part.surface, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    for x, y in rng.uniform(0.1, 0.9, (64, 2)):
        around = [
            surface[int((y + margin * np.sin(turn)) * _GRID), int((x + margin * np.cos(turn)) * _GRID)]
            for turn in np.arange(8) * (np.pi / 4)
        ]
        if min(around) > 0.8 and surface[int(y * _GRID), int(x * _GRID)] > 0.8:
            return float(x), float(y)
    return None


def _flaw(part: Part, pattern: FloatArray, cover: FloatArray, colour: Colour, width: float) -> Flaw | None:
    """Confine a grey pattern to the part and to where it shows, and give it its colour."""
    cover = cover * part.surface
    footprint = cover > 0.35 * float(cover.max())
    if not footprint.any():
        return None
    tinted = (pattern * part.surface)[..., None] * np.asarray(colour, np.float32)
    return Flaw(tinted, footprint, width)


def _structural(part: Part, pattern: FloatArray, spot: Spot) -> Flaw | None:
    strength = np.abs(pattern).max(axis=2)
    seen = (strength > _OUTLINE / 2).astype(np.uint8)
    # One pixel more, or the component's soft outline would stay behind; no specks of noise.
    seen = np.asarray(cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)), np.uint8)
    footprint = (cv2.dilate(seen, np.ones((3, 3), np.uint8)) > 0) & (strength > 2)
    if not footprint.any():
        return None
    return Flaw(pattern, footprint, min(spot.half_width, spot.half_height), structural=True)
