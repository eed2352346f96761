"""Single parts of the procedural line, each on a plain ground: cap, connector, gear, pill."""

from __future__ import annotations

import numpy as np

from cada_edge.trainer.synthetic_canvas import (
    Colour,
    Drawing,
    FloatArray,
    Pose,
    Spot,
    Stencil,
    blur,
    edge,
    flat,
    fractal,
    jitter,
    noise,
    paint,
    random_pose,
    sample,
    shade,
)

__all__ = ["bottle_cap", "connector", "gear", "pill"]


def _ground(rng: np.random.Generator, size: int, colour: Colour) -> FloatArray:
    """Return the plain ground that a part lies on."""
    image = flat(size, jitter(rng, colour, 0.03))
    shade(image, fractal(rng, size, 8, 2) * np.float32(0.006))
    return image


def _cast_shadow(image: FloatArray, part: FloatArray, depth: float) -> None:
    """Darken the ground to the lower right of a part."""
    step = max(1, round(0.012 * len(part)))
    soft = blur(part, 0.014)
    soft[step:, step:] = soft[:-step, :-step].copy()
    shade(image, soft * np.float32(-depth))


def _polar(pose: Pose, size: int) -> tuple[FloatArray, FloatArray]:
    u, v = pose.local(size)
    return np.hypot(u, v), np.arctan2(v, u)


def pill(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a two-coloured gelatine capsule: smooth, glossy, with the seam of its halves."""
    pose = random_pose(rng, shift=0.03, turn=0.2)
    u, v = pose.local(size)
    length, radius = 0.17 * float(rng.uniform(0.98, 1.02)), 0.145
    seam = u > np.float32(-0.015)
    girth = np.float32(radius) + np.float32(0.004) * seam
    beyond = np.maximum(np.abs(u) - np.float32(length), 0)
    across = np.hypot(beyond, v)
    part = edge(across - girth, size)
    image = _ground(rng, size, (72, 70, 68))
    _cast_shadow(image, part, 0.35)
    body = flat(size, jitter(rng, (206, 216, 222), 0.02))
    cap = jitter(rng, (138, 96, 44), 0.03)
    paint(body, cap, edge(np.float32(-0.015) - u, size))
    rise = np.sqrt(np.clip(1 - (across / girth) ** 2, 0, 1))
    tilt_x, tilt_y = np.sign(u) * beyond / girth, v / girth
    facing = np.clip(np.float32(0.8) * rise - np.float32(0.38) * tilt_y - np.float32(0.38) * tilt_x, 0, 1)
    shade(body, facing * np.float32(0.55) - np.float32(0.5))
    shade(body, np.float32(-0.10) * np.exp(-(((u + np.float32(0.018)) / np.float32(0.005)) ** 2)))
    gloss = np.exp(-(((v / girth + np.float32(0.48)) / np.float32(0.13)) ** 2)) * edge(
        beyond - np.float32(0.03), size, 0.06
    )
    body += (gloss * np.float32(46))[..., None]
    paint(image, body, part)
    return Drawing(image, part, image)


def bottle_cap(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a plastic screw cap from above: a smooth disc, an embossed ring, a knurled rim."""
    pose = random_pose(rng, shift=0.03, turn=0.3)
    r, angle = _polar(pose, size)
    rim, top = 0.375, 0.315
    part = edge(r - np.float32(rim), size)
    image = _ground(rng, size, (176, 178, 178))
    _cast_shadow(image, part, 0.4)
    body = flat(size, jitter(rng, (148, 84, 30), 0.03))
    light_side = np.cos(angle + np.float32(pose.angle + 2.3))
    knurl = np.cos(angle * np.float32(72)) * np.float32(0.22) + light_side * np.float32(0.22)
    outer = np.clip((r - np.float32(top)) / np.float32(0.012), 0, 1)
    shade(body, knurl * outer - np.float32(0.12) * outer)
    for radius, height in ((0.312, 0.20), (0.225, 0.10), (0.213, -0.10)):
        ring = np.exp(-(((r - np.float32(radius)) / np.float32(0.006)) ** 2))
        shade(body, ring * light_side * np.float32(height) + ring * np.float32(0.03))
    dome = np.clip(1 - r / np.float32(top), 0, 1)
    shade(body, dome * np.float32(0.10) + light_side * r * np.float32(0.16))
    sprue = np.exp(-((r / np.float32(0.010)) ** 2))
    shade(body, sprue * np.float32(-0.16))
    shade(body, fractal(rng, size, 10, 2) * np.float32(0.005))
    paint(image, body, part)
    return Drawing(image, part, image)


def gear(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a turned gear wheel: teeth, lightening holes, bore with keyway, lathe marks."""
    teeth, root, tip = 26, 0.335, 0.392
    pose = random_pose(rng, shift=0.02, turn=0.25)
    r, angle = _polar(pose, size)
    u, v = pose.local(size)
    wave = np.cos(angle * np.float32(teeth))
    profile = np.clip(wave * np.float32(1.9) + np.float32(0.1), -1, 1)
    outline = np.float32((root + tip) / 2) + profile * np.float32((tip - root) / 2)
    # The flanks are steep: the radial distance is corrected by the slope to stay a distance.
    slope = np.where(np.abs(profile) < 1, np.float32(teeth * 1.9 * (tip - root) / 2 / root), np.float32(0))
    toothed = edge((r - outline) / np.sqrt(1 + slope**2), size)
    disc = edge(r - np.float32(root), size)
    holes = edge(np.float32(0.082) - r, size)
    holes = np.minimum(
        holes, np.float32(1) - edge(np.maximum(np.abs(u) - 0.1, np.abs(v) - 0.018), size) * (u > 0)
    )
    for turn in range(6):
        x, y = pose.place(0.208 * np.cos(turn * np.pi / 3), 0.208 * np.sin(turn * np.pi / 3))
        hx, hy = Pose(x, y, 0.0).local(size)
        holes = np.minimum(holes, edge(np.float32(0.046) - np.hypot(hx, hy), size))
    steel = flat(size, jitter(rng, (162, 160, 156), 0.03))
    marks = sample(rng.standard_normal((1, 150)).astype(np.float32), r, np.zeros_like(r))
    glint = np.cos(2 * angle + np.float32(2 * pose.angle + rng.uniform(-0.3, 0.3)))
    shade(steel, marks * np.float32(0.030) + glint * np.float32(0.10))
    light_side = np.cos(angle + np.float32(pose.angle + 2.3))
    for radius, height in ((0.130, 0.25), (0.300, -0.2)):
        shade(
            steel,
            np.exp(-(((r - np.float32(radius)) / np.float32(0.005)) ** 2)) * light_side * np.float32(height),
        )
    ground = _ground(rng, size, (52, 50, 50))
    image, bare = ground.copy(), ground
    part = toothed * holes
    _cast_shadow(image, part, 0.5)
    _cast_shadow(bare, disc * holes, 0.5)
    paint(image, steel, part)
    paint(bare, steel, disc * holes)
    spots = []
    for tooth in range(teeth):
        direction = 2 * np.pi * tooth / teeth
        x, y = pose.place(0.366 * np.cos(direction), 0.366 * np.sin(direction))
        spots.append(Spot(float(x), float(y), 0.036, 0.036, pose.angle + direction))
    return Drawing(image, part, bare, tuple(spots))


def connector(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a pin header in its shroud: two rows of gilt pins in dark chambers."""
    columns, pitch = 6, 0.104
    pose = random_pose(rng, shift=0.03, turn=0.05)
    u, v = pose.local(size)
    shell = edge(np.maximum(np.abs(u) - 0.385, np.abs(v) - 0.185), size, 0.002)
    tab = edge(np.maximum(np.abs(u) - 0.11, np.abs(v - np.float32(0.20)) - 0.035), size)
    cavity = edge(np.maximum(np.abs(u) - 0.345, np.abs(v) - 0.125), size)
    part = np.maximum(shell, tab)
    bare = _ground(rng, size, (150, 146, 140))
    _cast_shadow(bare, part, 0.45)
    housing = flat(size, jitter(rng, (206, 218, 222), 0.03))
    shade(housing, noise(rng, size, 90) * np.float32(0.008))
    rim = np.maximum(np.abs(u) - np.float32(0.345), np.abs(v) - np.float32(0.125))
    shade(housing, np.float32(0.07) * np.clip(rim / np.float32(0.03), 0, 1))
    paint(bare, housing, part)
    floor = flat(size, jitter(rng, (112, 122, 128), 0.03))
    shade(floor, np.clip(v * np.float32(1.3), -0.2, 0.2))
    paint(bare, floor, cavity)
    chambers, pins, tops, spots = [], [], [], []
    for row in (-1, 1):
        for column in range(columns):
            cu, cv = (column - (columns - 1) / 2) * pitch, row * 0.060
            x, y = pose.place(cu, cv)
            chambers.append(Spot(x, y, 0.041, 0.038, pose.angle))
            du, dv = rng.normal(0, 0.0012, 2)
            x, y = pose.place(cu + float(du), cv + float(dv))
            pins.append(Spot(x, y, 0.020, 0.024, pose.angle))
            tops.append(Spot(x, y, 0.012, 0.015, pose.angle))
            spots.append(Spot(x, y, 0.028, 0.031, pose.angle))
    paint(bare, jitter(rng, (42, 46, 50), 0.05), Stencil(size).boxes(chambers).coverage())
    image = bare.copy()
    paint(image, jitter(rng, (74, 148, 190), 0.05), Stencil(size).boxes(pins).coverage())
    paint(image, jitter(rng, (150, 216, 240), 0.04), Stencil(size).boxes(tops).coverage())
    # Only the housing takes damage: among the pins there is nothing to crack.
    return Drawing(image, part * (np.float32(1) - cavity), bare, tuple(spots))
