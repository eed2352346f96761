"""The printed circuit board of the procedural line: the busiest object, of one fixed layout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cada_edge.trainer.synthetic_canvas import (
    Colour,
    Drawing,
    FloatArray,
    Pose,
    Spot,
    Stencil,
    flat,
    fractal,
    jitter,
    noise,
    paint,
    random_pose,
    shade,
)

__all__ = ["circuit_board"]

_LAYOUT_SEED = 20
_PITCH = 0.14


@dataclass(frozen=True)
class _Layout:
    """What every board of the line has in common, in the board's own coordinates (0 in the middle)."""

    chips: tuple[Spot, ...]
    passives: tuple[Spot, ...]
    traces: tuple[tuple[tuple[float, float], ...], ...]
    vias: tuple[tuple[float, float], ...]


@lru_cache(maxsize=1)
def _layout() -> _Layout:
    rng = np.random.default_rng(_LAYOUT_SEED)
    chips = (Spot(-0.19, -0.17, 0.105, 0.105), Spot(0.24, 0.20, 0.13, 0.075), Spot(-0.24, 0.28, 0.06, 0.085))
    passives = []
    for row in range(-3, 4):
        for column in range(-3, 4):
            x, y = column * _PITCH, row * _PITCH
            free = all(
                abs(x - chip.x) > chip.half_width + 0.085 or abs(y - chip.y) > chip.half_height + 0.075
                for chip in chips
            )
            if free and rng.random() < 0.62:
                passives.append(Spot(x, y, 0.052, 0.026, 0.0 if rng.random() < 0.6 else math.pi / 2))
    traces, vias = [], []
    for _ in range(55):
        x, y = (float(value) for value in np.round(rng.uniform(-0.62, 0.62, 2) / 0.034) * 0.034)
        points = [(x, y)]
        across = bool(rng.random() < 0.5)
        for _leg in range(3):
            run = float(rng.choice((-1, 1)) * rng.integers(3, 11)) * 0.034
            x, y = (x + run, y) if across else (x, y + run)
            points.append((x, y))
            bend = 0.034 * float(rng.choice((-1, 1)))
            x, y = x + bend, y + abs(bend)
            points.append((x, y))
            across = not across
        traces.append(tuple(points))
        vias.append(points[-1])
    return _Layout(chips, tuple(passives), tuple(traces), tuple(vias))


def circuit_board(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a populated board: copper under green lacquer, vias, packages, resistors and capacitors."""
    layout = _layout()
    pose = random_pose(rng, shift=0.01, turn=0.012)
    lacquer: Colour = jitter(rng, (62, 104, 36), 0.04)
    bare = flat(size, lacquer)
    shade(bare, fractal(rng, size, 32, 2) * np.float32(0.02))
    _copper(bare, rng, pose, layout)
    pads = [lead for chip in layout.chips for lead in _leads(chip)]
    for part in layout.passives:
        for end in (-1, 1):
            u = part.x + end * 0.041 * math.cos(part.angle)
            v = part.y + end * 0.041 * math.sin(part.angle)
            pads.append(Spot(u, v, 0.019, 0.029, part.angle))
    solder = flat(size, jitter(rng, (176, 182, 186), 0.04))
    shade(solder, noise(rng, size, 120) * np.float32(0.10))
    paint(bare, solder, Stencil(size).boxes([pose.lay(pad) for pad in pads]).coverage())
    packages = Stencil(size).boxes([pose.lay(chip) for chip in layout.chips])
    paint(bare, jitter(rng, (48, 46, 46), 0.06), packages.coverage())
    _silk(bare, rng, pose, layout)
    image = bare.copy()
    spots = _passives(image, rng, pose, layout)
    return Drawing(image, np.ones((size, size), np.float32), bare, spots)


def _copper(image: FloatArray, rng: np.random.Generator, pose: Pose, layout: _Layout) -> None:
    size = len(image)
    tracks, rings, drills = Stencil(size), Stencil(size), Stencil(size)
    for trace in layout.traces:
        tracks.line([pose.place(*point) for point in trace], 0.012)
    for via in layout.vias:
        x, y = pose.place(*via)
        rings.disc(x, y, 0.015)
        drills.disc(x, y, 0.0075)
    paint(image, jitter(rng, (84, 150, 66), 0.04), tracks.coverage())
    paint(image, jitter(rng, (120, 176, 192), 0.04), rings.coverage())
    paint(image, (28, 34, 24), drills.coverage())


def _leads(chip: Spot) -> Iterator[Spot]:
    """Return the leads on the two long sides of a package."""
    for lead in range(int(2 * chip.half_width / 0.03)):
        u = chip.x - chip.half_width + 0.02 + lead * 0.03
        for side in (-1, 1):
            yield Spot(u, chip.y + side * (chip.half_height + 0.012), 0.0075, 0.02)


def _silk(image: FloatArray, rng: np.random.Generator, pose: Pose, layout: _Layout) -> None:
    """Print the white legend: pin-one dots, and a lot number that differs from board to board."""
    ink = Stencil(len(image))
    for chip in layout.chips:
        x, y = pose.place(chip.x - chip.half_width + 0.018, chip.y - chip.half_height + 0.018)
        ink.disc(x, y, 0.008)
        strokes = rng.integers(0, 2, (6, 3))
        for letter, bits in enumerate(strokes):
            u, v = chip.x - 0.045 + letter * 0.018, chip.y
            ink.line([pose.place(u, v - 0.014), pose.place(u, v + 0.014)], 0.0035)
            for level, bit in enumerate(bits):
                if bit:
                    height = v + (level - 1) * 0.014
                    ink.line([pose.place(u, height), pose.place(u + 0.010, height)], 0.0035)
    paint(image, (168, 172, 172), ink.coverage() * np.float32(0.4))


def _passives(image: FloatArray, rng: np.random.Generator, pose: Pose, layout: _Layout) -> tuple[Spot, ...]:
    """Solder resistors (dark) and capacitors (tan) on, each a little off its place."""
    spots, ends, cores = [], [], []
    for part in layout.passives:
        du, dv = rng.normal(0, 0.0015, 2)
        turned = part.angle + float(rng.normal(0, 0.02))
        body = pose.lay(Spot(part.x + float(du), part.y + float(dv), 0.046, 0.025, turned))
        ends.append(body)
        cores.append(Spot(body.x, body.y, 0.029, 0.0262, body.angle))
        if 0.06 < body.x < 0.94 and 0.06 < body.y < 0.94:
            spots.append(Spot(body.x, body.y, 0.058, 0.030, body.angle))
    size = len(image)
    resistors = [core for index, core in enumerate(cores) if index % 3]
    paint(image, jitter(rng, (206, 210, 212), 0.03), Stencil(size).boxes(ends).coverage())
    paint(image, jitter(rng, (44, 42, 40), 0.05), Stencil(size).boxes(resistors).coverage())
    paint(image, jitter(rng, (88, 132, 168), 0.04), Stencil(size).boxes(cores[::3]).coverage())
    return tuple(spots)
