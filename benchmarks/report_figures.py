"""The report's sections with figures: scores of each kind, heat-maps and latency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cada_edge.benchmarks.demo_result import DemoResult, Example
from cada_edge.benchmarks.finding import significant
from cada_edge.benchmarks.heat_maps import HEAT_MAP_COLOURS, draw_examples, strip_of_example, unaligned_range
from cada_edge.benchmarks.plots import DARK, LIGHT, draw_latency, draw_scores, order_kinds, to_png
from cada_edge.benchmarks.report_page import escape, figure, image_source, paragraph, section
from cada_edge.files import write_atomic

__all__ = ["heat_maps_section", "latency_section", "scores_section"]

_FRAMES_FOR = {50: 2, 90: 10, 99: 100}
"""Percentile of the latency -> frames from which on it is more than the slowest one under another name."""


def scores_section(result: DemoResult, folder: Path) -> str:
    """Return the scores of each kind before and after alignment, in the manner of the paper's Fig. 5.

    Args:
        result: What was measured.
        folder: Where the figures are written as files.
    """
    kinds = order_kinds(result.variants["none"].scores, result.categories, result.anomalous)
    panels = []
    for variant, heading in (("none", "Before: without alignment"), ("cada", "After: with CADA")):
        picture = _picture(
            folder / f"scores-{variant}.png",
            partial(
                draw_scores,
                result.variants[variant].scores,
                result.categories,
                result.anomalous,
                kinds=kinds,
                threshold=result.variants[variant].threshold,
            ),
            alternative=f"Scores of the images of each kind and the one threshold. {heading}.",
        )
        panels.append(f"<div><h3>{escape(heading)}</h3>{picture}</div>")
    return section(
        "Scores of each kind, before and after",
        paragraph(
            "One threshold serves all kinds where their good parts end at about the same score. Good parts "
            "right of the dashed line are false alarms, defective parts left of it are missed."
        ),
        '<p class="small"><span class="key good"></span>good part &ensp; '
        '<span class="key defect"></span>defective part &ensp; '
        f"One point an image ({len(result.anomalous)} in each panel), the stroke is the median. "
        "Dashed: the one threshold of all kinds. Kinds stand in the order of their good parts' median before "
        "alignment. The panels' scores have different units.</p>",
        f'<div class="columns">{"".join(panels)}</div>',
    )


def heat_maps_section(result: DemoResult, folder: Path) -> str:
    """Return the heat-maps of the examples, defects and good parts, in the manner of the paper's Fig. 6.

    Args:
        result: What was measured.
        folder: Where the figure is written as a file.
    """
    if not result.examples:
        return section("Heat-maps", paragraph("No examples were recorded."))
    low, high = unaligned_range(result)
    write_atomic(folder / "examples.png", to_png(draw_examples(result.examples, (low, high))))
    origin = "the training images" if result.average_range is not None else "the good examples below"
    colours = matplotlib.colormaps[HEAT_MAP_COLOURS]
    stops = ", ".join(to_hex(colours(step / 8)) for step in range(9))
    defects = [example for example in result.examples if example.defect != "good"]
    good = [example for example in result.examples if example.defect == "good"]
    return section(
        "Heat-maps on defects and on good parts",
        '<p class="small">One fixed scale of colours for all: 0 <span class="ramp" style="background: '
        f'linear-gradient(to right, {stops})"></span> 1, clipped beyond. '
        "<b>none</b>: 0 and 1 are the mean and the maximum of a normal image's map, averaged over "
        f"{origin} ({significant(low)} and {significant(high)}), as in the paper's Fig. 6. "
        "<b>cada</b>: the aligned map as it is, for there 0 and 1 are the mean and "
        "the maximum predicted for this very image. A good part should stay below the top of the scale, "
        "whatever its kind. Below each map: the image's score and its verdict at the one threshold.</p>",
        f'<div class="columns">{_example_table(result, defects)}{_example_table(result, good)}</div>',
    )


def latency_section(result: DemoResult, folder: Path) -> str:
    """Return the histogram of the stream's latency, and its percentiles as far as the frames support them.

    Args:
        result: What was measured.
        folder: Where the figure is written as a file.
    """
    frames = len(result.latency_ms)
    if not frames:
        return section("Latency of the stream", paragraph("No frame was streamed, so there is no latency."))
    known = [percentile for percentile, least in _FRAMES_FOR.items() if frames >= least]
    figures = [f"p{each} {significant(float(np.percentile(result.latency_ms, each)))} ms" for each in known]
    figures.append(f"slowest {significant(float(result.latency_ms.max()))} ms")
    lacking = [f"p{each} (needs {least} frames)" for each, least in _FRAMES_FOR.items() if each not in known]
    listed = ", ".join(figures)
    measured = f"{listed}, over {frames} frames after warm-up, from frame to detection, on {result.backend}."
    return section(
        "Latency of the stream",
        paragraph(measured),
        paragraph(f"Not given: {', '.join(lacking)}.", style="small") if lacking else "",
        '<div class="narrow">'
        + _picture(
            folder / "latency.png",
            partial(draw_latency, result.latency_ms, percentiles=known),
            alternative=f"Histogram of the latency: {measured}",
        )
        + "</div>",
    )


def _picture(file: Path, draw: Callable[..., Figure], *, alternative: str) -> str:
    light, dark = to_png(draw(theme=LIGHT)), to_png(draw(theme=DARK))
    write_atomic(file, light)
    return figure(light, dark, alternative=alternative)


def _example_table(result: DemoResult, examples: list[Example]) -> str:
    if not examples:
        return ""
    average_range = unaligned_range(result)
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("frame", "outlined", "none", "cada"))
    title = "Defects" if examples[0].defect != "good" else "Good parts"
    rows = "".join(_example_rows(result, example, average_range) for example in examples)
    return (
        f'<div><h3>{title}</h3><table class="examples"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _example_rows(result: DemoResult, example: Example, average_range: tuple[float, float]) -> str:
    name = f"{example.category}, {example.defect}"
    source = image_source(to_png(strip_of_example(example, average_range)))
    cells = "".join(f"<td>{_verdict(result, example, variant)}</td>" for variant in ("none", "cada"))
    return (
        f'<tr class="strip"><td class="strip" colspan="4"><img src="{source}" alt="{escape(name)}: frame, '
        'outlined defect, heat-map without and with alignment"></td></tr>'
        f'<tr><td colspan="2">{escape(name)}</td>{cells}</tr>'
    )


def _verdict(result: DemoResult, example: Example, variant: str) -> str:
    score = example.scores[variant]
    alarm = score > result.variants[variant].threshold
    if example.defect == "good":
        return f"{significant(score)} " + ('<span class="bad">false alarm</span>' if alarm else "passed")
    return f"{significant(score)} " + ("found" if alarm else '<span class="bad">missed</span>')
