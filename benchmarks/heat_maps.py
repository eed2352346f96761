"""Heat-maps of examples, with and without alignment, in one fixed scale of colours."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import DemoResult, Example
from cada_edge.benchmarks.finding import significant
from cada_edge.benchmarks.plots import FONT_PT, LIGHT, WIDTH_IN, Theme, shorten

__all__ = ["HEAT_MAP_COLOURS", "draw_examples", "range_of_examples", "strip_of_example", "unaligned_range"]

HEAT_MAP_COLOURS = "inferno"
"""Matplotlib's name of the colours of the heat-maps."""

_OUTLINE = (255, 235, 59)
"""RGB of the ground truth's outline, drawn inside a black one so that it shows on any part."""


def draw_examples(
    examples: Sequence[Example],
    average_range: tuple[float, float],
    *,
    title: str | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the examples as rows of frame, outlined defect, heat-map without and with alignment.

    In the manner of the paper's Fig. 6, in the colours of `strip_of_example`.

    Args:
        examples: At least one.
        average_range: What the heat-maps without alignment show as 0 and 1.
        title: What the maps are of, for a figure that stands alone.
        theme: Colours.
    """
    strips = [strip_of_example(example, average_range) for example in examples]
    figure = Figure(
        figsize=(WIDTH_IN, 0.3 + 1.35 * len(strips) + (0.17 if title else 0)),
        # About a pixel for a pixel: enlarged frames make large files and show no more.
        dpi=max(120, strips[0].shape[1] / WIDTH_IN),
        facecolor=theme.paper,
        layout="constrained",
    )
    figure.suptitle(
        (f"{title}\n" if title else "")
        + "frame, outlined defect, heat-map without alignment, heat-map with CADA",
        parse_math=False,
        fontsize=FONT_PT,
        color=theme.ink,
    )
    for row, (example, strip) in enumerate(zip(examples, strips, strict=True)):
        axes = figure.add_subplot(len(strips), 1, row + 1)
        axes.imshow(strip)
        axes.axis("off")
        axes.set_title(
            f"{shorten(example.category)}, {shorten(example.defect)}: "
            f"score {significant(example.scores['none'])} without alignment, "
            f"{significant(example.scores['cada'])} with CADA",
            fontsize=FONT_PT - 1,
            color=theme.ink,
            loc="left",
            parse_math=False,
        )
    return figure


def unaligned_range(result: DemoResult) -> tuple[float, float]:
    """Return what the heat-maps without alignment show as 0 and 1: a normal map's average mean and maximum.

    Where the result does not know them they are taken from its good examples, or from all without a good one.

    Args:
        result: With at least one example, or with its own range.
    """
    if result.average_range is not None:
        return result.average_range
    return range_of_examples(result.examples)


def range_of_examples(examples: Sequence[Example]) -> tuple[float, float]:
    """Return mean and maximum of the good examples' maps without alignment, averaged over them.

    Args:
        examples: At least one; where none is good, all count.
    """
    maps = [example.maps["none"] for example in examples if not example.mask.any()]
    maps = maps or [example.maps["none"] for example in examples]
    return float(np.mean([np.mean(map_) for map_ in maps])), float(np.mean([np.max(map_) for map_ in maps]))


def strip_of_example(example: Example, average_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Lay frame, outlined defect, heat-map of `none` and heat-map of `cada` beside each other.

    Both heat-maps share one fixed scale of colours from 0 to 1. A pixel of `none` is brought to it by the
    range, the same for all images; one of `cada` is on it already, as the aligner predicts each one's range.

    Args:
        example: What to show.
        average_range: Of `none`, as from `unaligned_range`.

    Returns:
        uint8 (S, 4 S + gaps, 4), RGBA; the gaps are transparent.
    """
    low, high = average_range
    relative = (example.maps["none"] - low) / max(high - low, np.finfo(np.float32).tiny)
    frame = example.frame[..., ::-1]
    tiles = [frame, _outline(frame, example.mask), _colour(relative), _colour(example.maps["cada"])]
    size = frame.shape[0]
    gap = max(1, size // 32)
    strip = np.zeros((size, 4 * size + 3 * gap, 4), np.uint8)
    for column, tile in enumerate(tiles):
        left = column * (size + gap)
        strip[:, left : left + size, :3] = tile
        strip[:, left : left + size, 3] = 255
    return strip


def _colour(heat_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a map, 0-1 and clipped there: uint8 (S, S, 3), RGB."""
    colours = matplotlib.colormaps[HEAT_MAP_COLOURS](np.clip(heat_map, 0.0, 1.0), bytes=True)
    return np.asarray(colours, np.uint8)[..., :3]


def _outline(frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the mask's outline around, not over, what it marks."""
    outlined = np.array(frame)
    inner = mask != 0
    for colour in (_OUTLINE, (0, 0, 0)):
        for _ in range(max(1, len(mask) // 128)):
            outer = _grow(inner)
            outlined[outer & ~inner] = colour
            inner = outer
    return outlined


def _grow(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the region's eight neighbours of each pixel."""
    padded = np.pad(region, 1)
    rows = [padded[:-2], padded[1:-1], padded[2:]]
    tall = rows[0] | rows[1] | rows[2]
    return np.asarray(tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:], np.bool_)
