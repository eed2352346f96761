"""Procedural textures for pretraining the demo's encoder: thousands of recipes, each redrawable at will.

A recipe is a number. It settles everything a person would name (family, scale, direction, palette, relief);
a realisation is a second number that settles the noise. Two realisations of one recipe look like two
places on the same material. Nothing here is shared with `cada_edge.trainer.synthetic`, which draws the
line that the demo inspects: an encoder must not have seen what it will be judged on.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["draw_texture"]

Field = npt.NDArray[np.float32]
Random = np.random.Generator


def draw_texture(recipe: int, realisation: int, *, size: int = 160, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw one realisation of a recipe: uint8 (size, size, 3), RGB.

    The same four numbers give the same bytes.
    """
    choice = np.random.default_rng([seed, recipe])
    noise = np.random.default_rng([seed, recipe, realisation + 1])
    field = _standardise(_draw_family(choice, noise, size))
    if choice.random() < 0.5:
        field = _standardise(_combine(choice, noise, field, _standardise(_draw_family(choice, noise, size))))
    if choice.random() < 0.25:
        levels = choice.uniform(0.6, 2.0)
        field = np.round(field * levels) / np.float32(levels)
    tone = np.clip(128.0 + 52.0 * field, 0, 255).astype(np.uint8)
    texture = _palette(choice)[tone]
    relief = choice.uniform(0.0, 14.0) if choice.random() < 0.4 else 0.0
    angle = choice.uniform(0.0, 2 * np.pi)
    if relief > 0:
        slope = np.cos(angle) * cv2.Scharr(field, cv2.CV_32F, 1, 0) + np.sin(angle) * cv2.Scharr(
            field, cv2.CV_32F, 0, 1
        )
        texture = texture + np.float32(relief) * np.tanh(slope / 8.0)[..., None]
    grain = choice.exponential(2.0)
    texture = texture + np.float32(grain) * noise.standard_normal((size, size, 1), dtype=np.float32)
    return np.asarray(np.clip(texture, 0, 255), np.uint8)


def _draw_family(choice: Random, noise: Random, size: int) -> Field:
    family = _FAMILIES[int(choice.integers(len(_FAMILIES)))]
    return family(choice, noise, size).astype(np.float32, copy=False)


def _standardise(field: Field) -> Field:
    centred = field - field.mean()
    return np.asarray(np.clip(centred / (centred.std() + 1e-6), -3, 3), np.float32)


def _combine(choice: Random, noise: Random, first: Field, second: Field) -> Field:
    size = first.shape[0]
    match int(choice.integers(5)):
        case 0:
            return np.asarray(first + np.float32(choice.uniform(0.2, 1.0)) * second, np.float32)
        case 1:
            return first * second
        case 2:
            return np.asarray(np.maximum(first, second + np.float32(choice.uniform(-1, 1))), np.float32)
        case 3:
            return np.where(second > choice.uniform(-0.5, 1.0), first, -first)
        case _:
            reach = np.float32(choice.uniform(1.0, 6.0))
            rows, columns = np.indices((size, size), dtype=np.float32)
            blurred = cv2.GaussianBlur(second, (0, 0), 2.0)
            return cv2.remap(
                first,
                columns + reach * blurred,
                rows + reach * blurred,
                cv2.INTER_LINEAR,
                None,
                cv2.BORDER_REFLECT,
            ).astype(np.float32, copy=False)


def _palette(choice: Random) -> Field:
    """Make 256 RGB colours around one base colour, from nearly equal to strongly contrasting."""
    hue, saturation, value = choice.uniform(0, 180), choice.beta(1.0, 2.2), choice.uniform(0.12, 0.92)
    base = cv2.cvtColor(np.array([[[hue, 255 * saturation, 255 * value]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    contrast = np.exp(choice.uniform(np.log(12.0), np.log(130.0)))
    stops = int(choice.integers(2, 5))
    lightness = np.sort(choice.uniform(-1, 1, (stops, 1)), axis=0) if choice.random() < 0.6 else 0.0
    tint = choice.normal(0, 0.45, (stops, 3)) + choice.uniform(-1, 1, (stops, 1))
    colours = base + contrast * (lightness + tint * (0.35 if np.ndim(lightness) else 1.0))
    places = np.linspace(0, 255, stops)
    ramp = [np.interp(np.arange(256), places, colours[:, channel]) for channel in range(3)]
    return np.stack(ramp, axis=1).astype(np.float32)


def _axes(angle: float, size: int) -> tuple[Field, Field]:
    rows, columns = np.indices((size, size), dtype=np.float32) - np.float32(size / 2)
    along, across = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return columns * along + rows * across, rows * along - columns * across


def _cloud(noise: Random, size: int, reach: float) -> Field:
    """Smooth noise of unit variance that varies over about `reach` pixels."""
    coarse = max(3, round(size / reach))
    field = noise.standard_normal((coarse, coarse), dtype=np.float32)
    return _standardise(
        np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    )


def _period(choice: Random, low: float = 3.0, high: float = 36.0) -> float:
    return float(np.exp(choice.uniform(np.log(low), np.log(high))))


def _wave(choice: Random) -> Callable[[Field], Field]:
    """Choose a periodic profile with period 1."""
    duty = choice.uniform(0.12, 0.6)
    profiles: tuple[Callable[[Field], Field], ...] = (
        lambda phase: np.sin(2 * np.pi * phase),
        lambda phase: np.tanh(4 * np.sin(2 * np.pi * phase)),
        lambda phase: 2 * (phase % 1) - 1,
        lambda phase: ((phase % 1) < duty).astype(np.float32),
        lambda phase: np.abs(np.sin(np.pi * phase)),
    )
    return profiles[int(choice.integers(len(profiles)))]


def _spectrum(choice: Random, noise: Random, size: int) -> Field:
    frequency_y, frequency_x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    angle, stretch = choice.uniform(0, np.pi), np.exp(choice.uniform(0, 2.2) * (choice.random() < 0.6))
    along = np.cos(angle) * frequency_x + np.sin(angle) * frequency_y
    across = (np.cos(angle) * frequency_y - np.sin(angle) * frequency_x) * stretch
    radius = np.hypot(along, across)
    centre = 1 / _period(choice)
    if choice.random() < 0.4:
        gain = (radius + 1 / size) ** -choice.uniform(0.4, 2.2)
    elif choice.random() < 0.5:
        gain = np.exp(-(((radius - centre) / (centre * choice.uniform(0.1, 0.5))) ** 2) / 2)
    else:
        spread = centre * choice.uniform(0.15, 0.6)
        gain = np.exp(-((np.abs(along) - centre) ** 2 + across**2) / (2 * spread**2))
    gain[0, 0] = 0.0
    white = np.fft.rfft2(noise.standard_normal((size, size)))
    return np.fft.irfft2(white * gain, s=(size, size)).astype(np.float32)


def _plaid(choice: Random, noise: Random, size: int) -> Field:
    field = np.zeros((size, size), np.float32)
    for _ in range(int(choice.integers(2, 6))):
        along, _ = _axes(choice.uniform(0, np.pi), size)
        field += _wave(choice)(along / _period(choice) + noise.random()) * np.float32(
            choice.uniform(0.3, 1.0)
        )
    return field


def _stripes(choice: Random, noise: Random, size: int) -> Field:
    along, _ = _axes(choice.uniform(0, np.pi), size)
    period, bend = _period(choice), choice.exponential(0.25)
    return _wave(choice)(along / period + np.float32(bend) * _cloud(noise, size, 40) + noise.random())


def _checks(choice: Random, noise: Random, size: int) -> Field:
    along, across = _axes(choice.uniform(0, np.pi), size)
    period = _period(choice, 5.0)
    first = _wave(choice)(along / period + noise.random())
    second = _wave(choice)(across / (period * choice.uniform(0.5, 2.0)) + noise.random())
    return (first * second, np.maximum(first, second), first + second)[int(choice.integers(3))]


def _bricks(choice: Random, noise: Random, size: int) -> Field:
    along, across = _axes(choice.uniform(0, np.pi), size)
    height, length, offset = (
        _period(choice, 6.0, 30.0),
        _period(choice, 8.0, 50.0),
        choice.choice([0, 0.33, 0.5]),
    )
    course = across / height + noise.random()
    place = along / length + offset * np.floor(course) + noise.random()
    joint = choice.uniform(0.05, 0.25)
    tones = noise.normal(0, choice.uniform(0, 1), (64, 64))
    tone = tones[np.floor(course).astype(int) % 64, np.floor(place).astype(int) % 64]
    is_joint = (course % 1 < joint) | (place % 1 < joint * height / length)
    return np.asarray(np.where(is_joint, choice.choice([-2.0, 2.0]), tone), np.float32)


def _weave(choice: Random, noise: Random, size: int) -> Field:
    along, across = _axes(choice.uniform(0, np.pi), size)
    period, shift = _period(choice, 5.0, 24.0), int(choice.integers(1, 4))
    warp, weft = along / period + noise.random(), across / period + noise.random()
    over = (np.floor(warp) + shift * np.floor(weft)) % (shift + 1) < 1
    thread = np.where(
        over, np.abs(np.sin(np.pi * warp)), np.float32(choice.uniform(0.4, 1)) * np.abs(np.sin(np.pi * weft))
    )
    return np.asarray(thread + np.float32(choice.uniform(0, 0.3)) * _cloud(noise, size, 3), np.float32)


def _dots(choice: Random, noise: Random, size: int) -> Field:
    pitch, angle = _period(choice, 6.0, 32.0), choice.uniform(0, np.pi)
    radius, jitter = pitch * choice.uniform(0.12, 0.45), pitch * choice.choice([0.0, 0.1, 0.4])
    is_hexagonal, thickness = choice.random() < 0.5, -1 if choice.random() < 0.7 else 1
    field = np.zeros((size, size), np.float32)
    count = int(size / pitch) + 2
    origin = noise.uniform(0, pitch, 2)
    for row in range(-count, count):
        for column in range(-count, count):
            place = np.array([column + (0.5 * (row % 2) if is_hexagonal else 0.0), row]) * pitch + origin
            x = place[0] * np.cos(angle) - place[1] * np.sin(angle) + size / 2 + jitter * noise.normal()
            y = place[0] * np.sin(angle) + place[1] * np.cos(angle) + size / 2 + jitter * noise.normal()
            if -radius < x < size + radius and -radius < y < size + radius:
                cv2.circle(
                    field, (round(16 * x), round(16 * y)), round(16 * radius), 1.0, thickness, cv2.LINE_AA, 4
                )
    return cv2.GaussianBlur(field, (0, 0), float(choice.uniform(0.3, radius / 2 + 0.4))).astype(np.float32)


def _cells(choice: Random, noise: Random, size: int) -> Field:
    pitch = _period(choice, 5.0, 34.0)
    seeds = np.full((size, size), 255, np.uint8)
    count = max(4, int((size / pitch) ** 2))
    seeds[noise.integers(size, size=count), noise.integers(size, size=count)] = 0
    distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tone = noise.normal(size=count + 2).astype(np.float32)[np.asarray(owner, np.int32)]
    edge = cv2.morphologyEx(owner.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    depth = (distance / pitch).astype(np.float32)
    match int(choice.integers(4)):
        case 0:
            return depth
        case 1:
            return np.asarray(tone - np.float32(choice.uniform(0, 3)) * depth, np.float32)
        case 2:
            return cv2.GaussianBlur(edge.astype(np.float32), (0, 0), float(choice.uniform(0.4, 2.0))).astype(
                np.float32
            )
        case _:
            return np.asarray(np.where(edge, np.float32(-2.0), tone), np.float32)


def _leaves(choice: Random, noise: Random, size: int) -> Field:
    """Overlapping shapes, the last one on top: chips, flakes, stones, clippings."""
    field = np.zeros((size, size), np.float32)
    largest, stretch = _period(choice, 4.0, 22.0), choice.uniform(1.0, 4.0)
    corners, angle, spread = int(choice.integers(3, 9)), choice.uniform(0, 180), choice.choice([5.0, 180.0])
    steps = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    for _ in range(min(400, int(2.5 * (size / largest) ** 2))):
        radius = largest * noise.uniform(0.4, 1.0)
        turn = np.deg2rad(angle + spread * noise.uniform(-1, 1))
        ring = np.stack([np.cos(steps) * radius * stretch**0.5, np.sin(steps) * radius / stretch**0.5])
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ ring
        points = (16 * (turned + noise.uniform(0, size, (2, 1)))).T.astype(np.int32)
        cv2.fillPoly(field, [points], float(noise.normal()), cv2.LINE_8, 4)
    return field


def _fibres(choice: Random, noise: Random, size: int) -> Field:
    field = np.zeros((size, size), np.float32)
    angle, spread, length = (
        choice.uniform(0, np.pi),
        choice.choice([0.05, 0.4, 3.0]),
        _period(choice, 8.0, 120.0),
    )
    count, thickness = int(choice.integers(80, 420)), int(choice.integers(1, 3))
    for _ in range(count):
        turn = angle + spread * noise.normal()
        start = noise.uniform(0, size, 2)
        end = start + length * noise.uniform(0.4, 1.0) * np.array([np.cos(turn), np.sin(turn)])
        line = (16 * np.concatenate([start, end])).astype(int).tolist()
        cv2.line(field, line[:2], line[2:], float(noise.normal()), thickness, cv2.LINE_AA, 4)
    return field


def _rings(choice: Random, noise: Random, size: int) -> Field:
    along, across = _axes(choice.uniform(0, np.pi), size)
    centre = noise.uniform(-size, size, 2)
    radius = np.hypot(along - centre[0], (across - centre[1]) * choice.uniform(0.2, 1.0))
    bend = np.float32(choice.exponential(0.5))
    return _wave(choice)(np.asarray(radius / _period(choice), np.float32) + bend * _cloud(noise, size, 30))


def _plain(choice: Random, noise: Random, size: int) -> Field:
    """Nearly nothing: paint, plastic. A few specks set the scale, or standardising would blow it up."""
    field = np.float32(choice.uniform(0.02, 0.2)) * _cloud(noise, size, _period(choice, 2.0, 60.0))
    specks = noise.random((size, size)) < choice.choice([0.0005, 0.004])
    blurred = cv2.GaussianBlur(8 * specks.astype(np.float32), (0, 0), float(choice.uniform(0.4, 1.5)))
    return np.asarray(field + blurred, np.float32)


def _grain(choice: Random, noise: Random, size: int) -> Field:
    field = cv2.GaussianBlur(
        noise.standard_normal((size, size), dtype=np.float32), (0, 0), _period(choice, 0.4, 4.0)
    )
    field = _standardise(np.asarray(field, np.float32))
    floor = np.float32(choice.uniform(-1.5, 2.0))
    return np.asarray(np.maximum(field, floor) * np.float32(choice.choice([-1.0, 1.0])), np.float32)


_FAMILIES: tuple[Callable[[Random, Random, int], Field], ...] = (
    _spectrum,
    _spectrum,
    _plaid,
    _stripes,
    _checks,
    _bricks,
    _weave,
    _dots,
    _cells,
    _cells,
    _leaves,
    _fibres,
    _rings,
    _plain,
    _plain,
    _grain,
)
