"""Pretext images for the demo's encoder: drawn scenes in which every pixel has something to be recognised.

A scene is a mosaic of materials, parts with edges, holes and shading lying on it, and marks from bold
to hardly visible: strokes, spots, stains. It is photographed with uneven light, colour cast, blur and
noise. Two questions are asked everywhere in it, and they are the pretext: which of thousands of materials
is this (`Scene.recipe`), and which structures are here (`Scene.marks`)? The first makes features tell
materials apart at every stride, the second makes them notice what is small, faint or has an outline.

Example:
    >>> bank = draw_bank(recipes=4, realisations=1, tile_size=48, seed=0)
    >>> scene = draw_scene(bank, np.random.default_rng(0), size=32)
    >>> scene.image.shape, scene.recipe.shape, scene.marks.shape
    ((32, 32, 3), (32, 32), (32, 32, 6))
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cada_edge.trainer.pretext_textures import draw_texture

__all__ = ["MARKS", "Scene", "TextureBank", "draw_bank", "draw_batch", "draw_scene"]

MARKS = ("boundary", "object", "hole", "stroke", "spot", "stain")
"""The structures of `Scene.marks`, in the order of its last axis."""

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class TextureBank:
    """Everything slow to draw, drawn once."""

    tiles: npt.NDArray[np.uint8]
    """uint8 (recipes, realisations, T, T, 3), RGB."""
    clouds: Float
    """float32 (count, C, C): smooth noise of unit variance at several scales."""


@dataclass(frozen=True)
class Scene:
    """One pretext image and its dense labels; with a leading batch axis in what `draw_batch` returns."""

    image: npt.NDArray[np.uint8]
    """uint8 (S, S, 3), RGB."""
    recipe: npt.NDArray[np.int16]
    """int16 (S, S): the recipe of each pixel's material."""
    marks: npt.NDArray[np.uint8]
    """uint8 (S, S, 6), 0 or 1: which of `MARKS` are at each pixel."""


def draw_bank(
    *, recipes: int, realisations: int, tile_size: int, seed: int, first_realisation: int = 0
) -> TextureBank:
    """Draw every recipe's tiles; another `first_realisation` redraws the same recipes with fresh noise."""
    tiles = np.empty((recipes, realisations, tile_size, tile_size, 3), np.uint8)
    for recipe in range(recipes):
        for index in range(realisations):
            tiles[recipe, index] = draw_texture(recipe, first_realisation + index, size=tile_size, seed=seed)
    rng = np.random.default_rng([seed, first_realisation])
    clouds = [_draw_cloud(rng, reach) for reach in (8, 16, 32, 64) for _ in range(12)]
    return TextureBank(tiles=tiles, clouds=np.stack(clouds))


def draw_scene(bank: TextureBank, rng: Random, *, size: int = 128) -> Scene:
    """Draw one scene; the same bank and generator state give the same bytes."""
    canvas = _Canvas(bank, rng, size)
    canvas.lay(np.full((size, size), 255, np.uint8))
    layout = rng.random()
    if layout < 0.35:
        _add_mosaic(canvas)
    elif layout < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            canvas.lay((canvas.cloud() > rng.uniform(0.0, 1.2)).astype(np.uint8) * 255)
    if layout > 0.5 or rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 4))):
            _add_part(canvas)
    for _ in range(int(rng.integers(0, 3))):
        _add_patch(canvas)
    for _ in range(int(rng.integers(0, 3))):
        _add_stroke(canvas)
    for _ in range(int(rng.integers(0, 6))):
        _add_spot(canvas)
    if rng.random() < 0.4:
        _add_stain(canvas)
    return Scene(image=_photograph(canvas), recipe=canvas.recipe, marks=canvas.marks)


def draw_batch(bank: TextureBank, rng: Random, *, count: int, size: int = 128) -> Scene:
    """Draw `count` scenes stacked along a new first axis."""
    scenes = [draw_scene(bank, rng, size=size) for _ in range(count)]
    return Scene(
        image=np.stack([scene.image for scene in scenes]),
        recipe=np.stack([scene.recipe for scene in scenes]),
        marks=np.stack([scene.marks for scene in scenes]),
    )


class _Canvas:
    """A scene being drawn: pixels, labels, and the light to be added when it is photographed."""

    def __init__(self, bank: TextureBank, rng: Random, size: int) -> None:
        self.bank, self.rng, self.size = bank, rng, size
        self.image = np.zeros((size, size, 3), np.uint8)
        self.recipe = np.zeros((size, size), np.int16)
        self.marks = np.zeros((size, size, len(MARKS)), np.uint8)
        self.light = np.zeros((size, size, 3), np.float32)

    def lay(self, mask: Mask, *, recipe: int | None = None) -> None:
        """Cover `mask` (uint8 (S, S), 0 or 255) with a material and mark its outline."""
        if recipe is None:
            recipe = int(self.rng.integers(len(self.bank.tiles)))
        tiles = self.bank.tiles[recipe]
        tile = tiles[int(self.rng.integers(len(tiles)))]
        zoom = np.exp(self.rng.uniform(np.log(0.6), np.log(1.7)))
        matrix = cv2.getRotationMatrix2D((0.0, 0.0), float(self.rng.uniform(0, 360)), float(zoom))
        matrix[:, 2] = matrix[:, 2] + self.rng.uniform(0, 2 * self.size, 2)
        box = _box(mask)
        part = np.ascontiguousarray(mask[box])
        material = cv2.warpAffine(
            tile, matrix, part.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        weight = np.multiply(cv2.GaussianBlur(part, (3, 3), 0.6), np.float32(1 / 255), dtype=np.float32)
        self.image[box] = cv2.blendLinear(material, np.ascontiguousarray(self.image[box]), weight, 1 - weight)
        self.recipe[box][part > 127] = recipe
        self.marks[box][part > 127, 0] = 0
        self.marks[box][cv2.morphologyEx(part, cv2.MORPH_GRADIENT, _CROSS) > 127, 0] = 1

    def tint(self, mask: Mask, shift: Float, *, kind: str) -> None:
        """Add a colour `shift` (3,) as far as `mask` (uint8 (S, S), 0-255) says, and mark it as `kind`."""
        box = _box(mask)
        self.light[box] += mask[box][..., None] * (shift / np.float32(255))
        self.marks[box][mask[box] > 77, MARKS.index(kind)] = 1

    def cloud(self) -> Float:
        """Cut a random view, (S, S), from one of the bank's clouds."""
        cloud = self.bank.clouds[int(self.rng.integers(len(self.bank.clouds)))]
        matrix = np.eye(2, 3)
        matrix[:, 2] = self.rng.uniform(-len(cloud), len(cloud), 2)
        view = cv2.warpAffine(cloud, matrix, (self.size, self.size), borderMode=cv2.BORDER_REFLECT)
        return np.asarray(view, np.float32)

    def blank(self) -> Mask:
        """Make an empty mask."""
        return np.zeros((self.size, self.size), np.uint8)


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def _box(mask: Mask) -> tuple[slice, slice]:
    """Find the rows and columns that hold `mask`, two pixels wider where there is room."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(0, y - 2), y + height + 2), slice(max(0, x - 2), x + width + 2)


def _draw_cloud(rng: Random, reach: int, size: int = 192) -> Float:
    coarse = rng.standard_normal((size // reach + 2, size // reach + 2), dtype=np.float32)
    cloud = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((cloud - cloud.mean()) / cloud.std(), np.float32)


def _shift(rng: Random, low: float, high: float) -> Float:
    """Choose a colour change, (3,): mostly lighter or darker, sometimes a hue."""
    strength = np.exp(rng.uniform(np.log(low), np.log(high))) * rng.choice([-1.0, 1.0])
    return np.asarray(strength * (1 + rng.normal(0, 0.25, 3) * (rng.random() < 0.5)), np.float32)


def _outline(rng: Random, centre: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.int32]:
    """Draw a closed outline: superellipse, polygon, gear or irregular; points in 1/16 pixel."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if rng.random() < 0.3:
        corners = int(rng.integers(3, 9))
        lengths = np.cos(np.pi / corners) / np.cos((angles % (2 * np.pi / corners)) - np.pi / corners)
    else:
        power, aspect = rng.choice([1.2, 2.0, 2.0, 4.0, 12.0]), rng.uniform(0.35, 1.0)
        lengths = (np.abs(np.cos(angles)) ** power + np.abs(np.sin(angles) / aspect) ** power) ** (-1 / power)
    if rng.random() < 0.25:
        teeth = int(rng.integers(3, 18))
        lengths = lengths * (1 + rng.uniform(0.04, 0.15) * np.tanh(3 * np.sin(teeth * angles)))
    if rng.random() < 0.25:
        for wave in range(2, 6):
            lengths = lengths * (1 + 0.12 * rng.normal() * np.sin(wave * angles + rng.uniform(0, 2 * np.pi)))
    turned = angles + rng.uniform(0, 2 * np.pi)
    points = centre + radius * lengths[:, None] * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    return np.asarray(np.round(16 * points), np.int32)


def _fill(canvas: _Canvas, centre: npt.NDArray[np.float64], radius: float) -> Mask:
    mask = canvas.blank()
    cv2.fillPoly(mask, [_outline(canvas.rng, centre, radius)], 255, cv2.LINE_8, 4)
    return mask


def _add_mosaic(canvas: _Canvas) -> None:
    rng, size = canvas.rng, canvas.size
    rows, columns = np.indices((size, size), dtype=np.float32)
    bend = np.float32(rng.choice([0.0, 60.0, 400.0])) * canvas.cloud()
    places = rng.uniform(0, size, (int(rng.integers(2, 8)), 2)).astype(np.float32)
    squares = [(rows - y) ** 2 + (columns - x) ** 2 + bend * (-1) ** k for k, (y, x) in enumerate(places)]
    owner = np.argmin(np.stack(squares), axis=0)
    for cell in range(1, len(places)):
        canvas.lay((owner == cell).astype(np.uint8) * 255)


def _add_part(canvas: _Canvas) -> None:
    """Lay a part with a shadow, a bevelled or domed surface and perhaps holes."""
    rng, size = canvas.rng, canvas.size
    centre, radius = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.12, 0.5) * size
    part = _fill(canvas, centre, radius)
    shadow = cv2.GaussianBlur(
        np.roll(part, rng.integers(-6, 7, 2), axis=(0, 1)), (0, 0), float(rng.uniform(1, 5))
    )
    canvas.light -= (shadow * np.float32(rng.uniform(0, 45) / 255))[..., None]
    canvas.light[part > 0] = 0
    canvas.lay(part)
    canvas.marks[part > 0, 1:3] = (1, 0)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.6 else 0):
        place = centre + rng.uniform(-0.6, 0.6, 2) * radius
        hole = _fill(canvas, place, radius * rng.uniform(0.06, 0.3)) & part
        canvas.lay(hole)
        canvas.marks[hole > 0, 2] = 1
        canvas.light[hole > 0] -= np.float32(rng.uniform(0, 60))
        part = part & ~hole
    box = _box(part)
    depth = np.asarray(cv2.distanceTransform(np.ascontiguousarray(part[box]), cv2.DIST_L2, 3), np.float32)
    height = 1 - np.exp(-depth / np.float32(rng.choice([1.5, 4.0, radius / 3])))
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 60)
    slope = np.cos(angle) * cv2.Sobel(height, cv2.CV_32F, 1, 0) + np.sin(angle) * cv2.Sobel(
        height, cv2.CV_32F, 0, 1
    )
    canvas.light[box] += (np.float32(strength) * np.asarray(slope, np.float32) * (depth > 0))[..., None]


def _add_patch(canvas: _Canvas) -> None:
    """Lay a small piece of another material, or of the same one turned another way."""
    centre = canvas.rng.uniform(0, canvas.size, 2)
    column, row = centre.astype(int)
    recipe = int(canvas.recipe[row, column]) if canvas.rng.random() < 0.5 else None
    canvas.lay(_fill(canvas, centre, canvas.rng.uniform(3, 16)), recipe=recipe)


def _add_stroke(canvas: _Canvas) -> None:
    rng, mask = canvas.rng, canvas.blank()
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.choice([0.05, 0.5]), 6))
    steps = rng.uniform(2, 14) * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    points = rng.uniform(0, canvas.size, 2) + np.cumsum(steps, axis=0)
    cv2.polylines(
        mask, [np.round(16 * points).astype(np.int32)], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, 4
    )
    canvas.tint(mask, _shift(rng, 10, 110), kind="stroke")


def _add_spot(canvas: _Canvas) -> None:
    rng = canvas.rng
    mask = _fill(canvas, rng.uniform(0, canvas.size, 2), float(np.exp(rng.uniform(np.log(1.0), np.log(8.0)))))
    soft = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.4, 2.0)))
    canvas.tint(np.asarray(soft, np.uint8), _shift(rng, 12, 110), kind="spot")


def _add_stain(canvas: _Canvas) -> None:
    edge = np.float32(canvas.rng.uniform(0.3, 2.0))
    alpha = np.clip((canvas.cloud() - np.float32(canvas.rng.uniform(0.6, 1.6))) / edge, 0, 1)
    canvas.tint((255 * alpha).astype(np.uint8), _shift(canvas.rng, 8, 60), kind="stain")


def _photograph(canvas: _Canvas) -> npt.NDArray[np.uint8]:
    """Light the scene unevenly and take it through contrast, colour cast, blur and sensor noise."""
    rng, size = canvas.rng, canvas.size
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slope_y, slope_x = rng.normal(0, 0.12, 2).astype(np.float32)
    cast = np.asarray(rng.uniform(0.65, 1.3) * (1 + rng.normal(0, 0.06, 3)), np.float32)
    gain = 1 + slope_y * ramp[:, None] + slope_x * ramp[None]
    image = (canvas.image * gain[..., None] + canvas.light) * cast + np.float32(rng.normal(0, 12))
    if rng.random() < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.3))), np.float32)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    image = image + np.float32(min(rng.exponential(3.0), 15.0)) * noise
    return np.asarray(np.clip(image, 0, 255), np.uint8)
