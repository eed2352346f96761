"""Surfaces of the procedural line that fill the image: metal, tiles, terrazzo, wood, fabric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cada_edge.trainer.synthetic_canvas import (
    Drawing,
    FloatArray,
    Spot,
    edge,
    flat,
    fractal,
    jitter,
    noise,
    paint,
    random_pose,
    sample,
    shade,
    unit_grid,
)

__all__ = ["brushed_metal", "ceramic_tile", "terrazzo", "wood", "woven_fabric"]


def brushed_metal(rng: np.random.Generator, size: int) -> Drawing:
    """Draw brushed steel: fine streaks in one direction under a soft band of light."""
    pose = random_pose(rng, shift=0.5, turn=0.06)
    u, v = pose.local(size)
    image = flat(size, jitter(rng, (158, 154, 150), 0.04))
    fine = rng.standard_normal((300, 5)).astype(np.float32)
    broad = rng.standard_normal((90, 2)).astype(np.float32)
    streaks = sample(fine, u, v) * np.float32(0.055) + sample(broad, u, v) * np.float32(0.022)
    sheen = np.exp(-((v - np.float32(rng.uniform(-0.2, 0.2))) ** 2) / np.float32(0.12))
    shade(image, streaks + np.float32(0.14) * sheen)
    return Drawing(image, np.ones((size, size), np.float32), image)


def ceramic_tile(rng: np.random.Generator, size: int) -> Drawing:
    """Draw glazed tiles: nearly even faces with rounded edges, and grey grout between them."""
    pose = random_pose(rng, shift=0.08, turn=0.015)
    u, v = pose.local(size)
    pitch, grout = np.float32(0.44), np.float32(0.011)
    column, row = np.floor(u / pitch), np.floor(v / pitch)
    du = np.abs(u - (column + np.float32(0.5)) * pitch)
    dv = np.abs(v - (row + np.float32(0.5)) * pitch)
    distance = np.maximum(du, dv) - (pitch / 2 - grout)
    tones = rng.normal(0, 0.012, (8, 8)).astype(np.float32)
    image = flat(size, jitter(rng, (214, 220, 222), 0.02))
    shade(image, tones[column.astype(int) % 8, row.astype(int) % 8])
    shade(image, fractal(rng, size, 6, 2) * np.float32(0.004))
    shade(image, np.float32(-0.10) * np.clip(1 + distance / np.float32(0.014), 0, 1) ** 2)
    grit = flat(size, jitter(rng, (128, 132, 134), 0.03))
    shade(grit, noise(rng, size, 180) * np.float32(0.05))
    face = edge(distance, size, 0.002)
    paint(image, grit, np.float32(1) - face)
    return Drawing(image, face, image)


def terrazzo(rng: np.random.Generator, size: int) -> Drawing:
    """Draw terrazzo: angular stone chips of several colours, closely set in a light binder."""
    cells = 13
    x, y = unit_grid(size)
    centres = rng.uniform(0.08, 0.92, (2, cells + 2, cells + 2)).astype(np.float32)
    palette = np.array(
        [(92, 104, 116), (122, 132, 140), (74, 78, 86), (134, 142, 150), (84, 104, 132), (108, 116, 112)]
    )
    colours = palette[rng.integers(0, len(palette), (cells + 2, cells + 2))].astype(np.float32)
    colours *= rng.uniform(0.88, 1.12, (cells + 2, cells + 2, 1)).astype(np.float32)
    gaps = rng.uniform(0.03, 0.16, (cells + 2, cells + 2)).astype(np.float32)
    u, v = x * np.float32(cells), y * np.float32(cells)
    column, row = u.astype(np.int32) + 1, v.astype(np.int32) + 1
    cell_u, cell_v = column.astype(np.float32) - u, row.astype(np.float32) - v
    nearest = np.full((size, size), 9, np.float32)
    second = nearest.copy()
    owner = np.zeros((size, size), np.int32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            index = np.clip(row + dy, 0, cells + 1) * (cells + 2) + np.clip(column + dx, 0, cells + 1)
            across = (cell_u + np.float32(dx - 1)) + centres[0].ravel()[index]
            down = (cell_v + np.float32(dy - 1)) + centres[1].ravel()[index]
            distance = np.sqrt(across * across + down * down)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            owner = np.where(closer, index, owner)
            nearest = np.minimum(nearest, distance)
    gap = gaps.ravel()[owner]
    chip = np.clip((second - nearest - gap) * np.float32(size / cells * 0.7) + np.float32(0.5), 0, 1)
    image = flat(size, jitter(rng, (146, 154, 160), 0.03))
    shade(image, fractal(rng, size, 64, 2) * np.float32(0.02))
    stone = colours.reshape(-1, 3)[owner]
    shade(stone, fractal(rng, size, 48, 3) * np.float32(0.07))
    paint(image, stone, chip)
    return Drawing(image, np.ones((size, size), np.float32), image)


def wood(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a planed board: year rings along the grain, pores, and fine fibre."""
    pose = random_pose(rng, shift=0.4, turn=0.05)
    u, v = pose.local(size)
    waves = noise(rng, size, 4, 2) * np.float32(0.035) + noise(rng, size, 9, 3) * np.float32(0.009)
    spread = sample(rng.standard_normal((1, 7)).astype(np.float32), u + waves, v)
    rings = ((u + waves) * np.float32(13) + spread * np.float32(0.5)) % np.float32(1)
    late = rings**3 * np.clip((np.float32(1) - rings) * np.float32(7), 0, 1)
    fibre = sample(rng.standard_normal((6, 260)).astype(np.float32), u, v)
    pores = np.clip(sample(rng.standard_normal((26, 210)).astype(np.float32), u, v) - np.float32(1.5), 0, 1)
    image = flat(size, jitter(rng, (112, 158, 196), 0.04))
    paint(image, jitter(rng, (62, 104, 150), 0.03), late * np.float32(0.7))
    shade(image, fibre * np.float32(0.022) - pores * np.float32(0.2))
    shade(image, noise(rng, size, 5, 2) * np.float32(0.02))
    return Drawing(image, np.ones((size, size), np.float32), image)


def woven_fabric(rng: np.random.Generator, size: int) -> Drawing:
    """Draw a plain weave: warp and weft pass over each other, each thread a little different."""
    threads = 18
    pose = random_pose(rng, shift=0.5, turn=0.05)
    u, v = pose.local(size)
    u = u + noise(rng, size, 5) * np.float32(0.004)
    v = v + noise(rng, size, 5) * np.float32(0.004)
    tones = rng.normal(0, 0.06, (2, 2 * threads)).astype(np.float32)
    warp_over = _over(u, v, threads)
    warp = _thread(u, v, threads, tones[0], arched=warp_over)
    weft = _thread(v, u, threads, tones[1], arched=~warp_over)
    fibre = noise(rng, size, 200) * np.float32(0.05)
    warp_colour, weft_colour = jitter(rng, (150, 122, 92), 0.03), jitter(rng, (186, 180, 170), 0.03)
    under = np.asarray((40, 34, 30), np.float32)
    bare = under + (np.asarray(warp_colour, np.float32) - under) * warp[..., None]
    image = np.where(
        warp_over[..., None], bare, under + (np.asarray(weft_colour, np.float32) - under) * weft[..., None]
    )
    shade(image, fibre)
    shade(bare, fibre)
    spots = []
    for line in range(-threads, threads):
        for step in range(-threads, threads, 4):
            x, y = pose.place((step + 0.5) / threads, (line + 0.5) / threads)
            if 0.12 < x < 0.88 and 0.12 < y < 0.88:
                spots.append(Spot(x, y, 2.5 / threads, 0.5 / threads, pose.angle))
    return Drawing(image, np.ones((size, size), np.float32), bare, tuple(spots))


def _over(u: FloatArray, v: FloatArray, threads: int) -> NDArray[np.bool_]:
    """Return True where the warp lies on top: the fields of a chess board."""
    over: NDArray[np.bool_] = (np.floor(u * threads) + np.floor(v * threads)) % 2 == 0
    return over


def _thread(
    across: FloatArray, along: FloatArray, threads: int, tones: FloatArray, *, arched: NDArray[np.bool_]
) -> FloatArray:
    """Return how bright the threads are, 0-1: round across, arched where they pass over."""
    position = across * np.float32(threads)
    index = np.floor(position)
    round_ = np.sin(np.float32(np.pi) * (position - index))
    step = along * np.float32(threads)
    arch = np.sin(np.float32(np.pi) * (step - np.floor(step)))
    bright = np.sqrt(round_) * (np.float32(0.62) + np.float32(0.38) * arch * arched)
    # Twisted yarn shows as fine oblique lines.
    twist = np.sin((position * np.float32(1.0) + step * np.float32(2.0)) * np.float32(2 * np.pi))
    tone = tones[index.astype(np.int32) % len(tones)]
    thread: FloatArray = np.clip(bright * (np.float32(0.95) + tone + np.float32(0.06) * twist), 0, 1.2)
    return thread
