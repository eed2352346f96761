"""Charts of a benchmark as inline SVG: no package, no script, and colours of the page they stand in."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHART_STYLE", "LIGHT_COLOURS", "STAGE_COLOURS", "draw_histogram", "draw_series", "draw_stages"]

_WIDTH = 640
_LEFT, _RIGHT = 52, 16
_BINS = 80

STAGE_COLOURS = {
    "capture": "--c1",
    "preprocess": "--c2",
    "host_to_device": "--c3",
    "compute": "--c4",
    "device_to_host": "--c5",
    "post": "--c6",
    "sink": "--c7",
    "unaccounted": "--c8",
}
"""Stage -> variable of the style sheet."""

LIGHT_COLOURS = {
    "--c1": "#8fa3b5",
    "--c2": "#e0a93b",
    "--c3": "#6a9f58",
    "--c4": "#2468b4",
    "--c5": "#9ac28b",
    "--c6": "#b55d8f",
    "--c7": "#7b6fb0",
    "--c8": "#c9cdd2",
}
"""Variable -> colour on white paper."""

CHART_STYLE = (
    f"""
:root {{ {" ".join(f"{name}: {colour};" for name, colour in LIGHT_COLOURS.items())} }}"""
    """
@media screen and (prefers-color-scheme: dark) { :root { --c1: #71869a; --c2: #d9a441; --c3: #7cb36a;
  --c4: #6cb0f5; --c5: #a9d09a; --c6: #d182b0; --c7: #a79be0; --c8: #4b525b; } }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg.chart text.strong { fill: var(--ink); font-weight: 600; }
svg.chart .axis { stroke: var(--line); stroke-width: 1; }
svg.chart .bars { fill: var(--normal); }
svg.chart .range { stroke: var(--normal); stroke-width: 1.2; opacity: .35; }
svg.chart .middle { fill: none; stroke: var(--normal); stroke-width: 1.6; }
svg.chart .mark { stroke: var(--defect); stroke-width: 1.2; stroke-dasharray: 4 3; }
svg.chart text.mark { stroke: none; fill: var(--bad); }
.keys { font-size: .85rem; color: var(--soft); margin: .3rem 0; max-width: none; }
.keys i { display: inline-block; width: .75em; height: .75em; margin: 0 .3em 0 .9em; border-radius: 2px; }
.warn { border-left: 3px solid var(--defect); padding-left: .8rem; }
td, th { white-space: nowrap; }
table { margin-top: .9rem; }
figure.wide { max-width: 46rem; }
p.lead { margin-bottom: .4rem; }
dl dd { max-width: 46rem; }
"""
)
"""Rules for the page's style sheet."""


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Choose round numbers between two others."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:.6g}"


def _frame(height: int, body: Sequence[str], alternative: str) -> str:
    shown = html.escape(alternative, quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{shown}">'
        f"<title>{shown}</title>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def draw_histogram(
    total_ms: NDArray[np.float64],
    marks: Mapping[str, float],
    *,
    alternative: str,
    most_ms: float | None = None,
) -> str:
    """Draw how often each latency came.

    Args:
        total_ms: All samples.
        marks: Name -> value in ms, drawn as lines.
        alternative: What it shows, in words.
        most_ms: Right end of the scale; samples beyond it are counted in words. None: 1.25 times the p99.

    Returns:
        SVG. The heights are logarithmic: a stall that came once is seen beside ten thousand calls.
    """
    height, top, bottom = 210, 34, 168
    low = 0.0
    high = most_ms or 1.25 * float(np.percentile(total_ms, 99))
    high = max(high, 1e-6)
    counts, _ = np.histogram(total_ms, bins=_BINS, range=(low, high))
    beyond = int((total_ms > high).sum())
    width = (_WIDTH - _LEFT - _RIGHT) / _BINS
    scale = math.log1p(max(int(counts.max()), 1))

    def across(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def up(count: float) -> float:
        return bottom - math.log1p(count) / scale * (bottom - top)

    body = []
    powers = [10**power for power in range(6) if 10**power <= counts.max()]
    for count in powers:
        body.append(_line(_LEFT, up(count), _WIDTH - _RIGHT, up(count), "axis"))
        body.append(_text(_LEFT - 6, up(count) + 4, f"{count}", anchor="end"))
    for place, count in enumerate(counts):
        if count:
            x, y = _LEFT + place * width, up(int(count))
            body.append(
                f'<rect class="bars" x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.6, 0.5):.2f}" '
                f'height="{bottom - y:.1f}"/>'
            )
    body.append(_line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "axis"))
    for value in _ticks(low, high, 8):
        body.append(_text(across(value), bottom + 16, _label(value)))
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 34, "latency, ms"))
    body.append(_text(_LEFT - 40, top - 20, "samples", anchor="start"))
    body += _marks(
        {name: across(value) for name, value in marks.items() if value <= high}, marks, top, bottom
    )
    if beyond:
        words = f"{beyond} beyond, up to {_short(float(total_ms.max()))} ms →"
        body.append(_text(_WIDTH - _RIGHT, bottom + 34, words, anchor="end", style="strong"))
    return _frame(height, body, alternative)


def _marks(places: Mapping[str, float], values: Mapping[str, float], top: float, bottom: float) -> list[str]:
    """Draw lines with their names above, moved apart where they would overlap."""
    found, last = [], -1e9
    for name, x in places.items():
        found.append(_line(x, top - 4, x, bottom, "mark"))
        text = f"{name} {_short(values[name])}"
        row = 12 if x - last < 78 else 0
        last = x if not row else last
        anchor = "end" if x > _WIDTH - 60 else "middle"
        found.append(_text(x, top - 8 - row, text, anchor=anchor, style="mark"))
    return found


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def draw_series(
    at_s: NDArray[np.float64],
    total_ms: NDArray[np.float64],
    blocks: NDArray[np.int64],
    *,
    alternative: str,
    limit_ms: float | None = None,
) -> str:
    """Draw the latencies over the time at which they began.

    Args:
        at_s: When each sample began, in seconds.
        total_ms: All samples.
        blocks: The block of each: between two blocks, when others were measured, no line is drawn.
        alternative: What it shows, in words.
        limit_ms: A line to hold them against.

    Returns:
        SVG: for each pixel's time a line from the smallest to the largest sample, so that no peak is lost,
        and the median.
    """
    height, top, bottom = 210, 22, 168
    end = max(float(at_s.max()), 1e-9)
    high = max(float(total_ms.max()), limit_ms or 0.0) * 1.05

    def across(value: float) -> float:
        return _LEFT + value / end * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return bottom - value / high * (bottom - top)

    body = []
    for value in _ticks(0, high, 5):
        body.append(_line(_LEFT, up(value), _WIDTH - _RIGHT, up(value), "axis"))
        body.append(_text(_LEFT - 6, up(value) + 4, _label(value), anchor="end"))
    for value in _ticks(0, end, 8):
        body.append(_text(across(value), bottom + 16, _label(value)))
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 34, "time since the first block began, s"))
    body.append(_text(_LEFT - 40, top - 8, "ms", anchor="start"))
    columns = np.minimum((at_s / end * (_WIDTH - _LEFT - _RIGHT) / 2).astype(np.int64), 10_000)
    for block in np.unique(blocks):
        points = []
        for column in np.unique(columns[blocks == block]):
            values = total_ms[(columns == column) & (blocks == block)]
            x = _LEFT + 2 * int(column) + 1
            y_low, y_high = up(float(values.min())), up(float(values.max()))
            body.append(_line(x, y_low + 0.6, x, y_high - 0.6, "range"))
            points.append(f"{x:.1f},{up(float(np.median(values))):.1f}")
        body.append(f'<polyline class="middle" points="{" ".join(points)}"/>')
    if limit_ms is not None:
        body.append(_line(_LEFT, up(limit_ms), _WIDTH - _RIGHT, up(limit_ms), "mark"))
        text = f"{_short(limit_ms)} ms"
        body.append(_text(_WIDTH - _RIGHT, up(limit_ms) - 4, text, anchor="end", style="mark"))
    return _frame(height, body, alternative)


def draw_stages(models: Mapping[str, Mapping[str, float]], *, alternative: str) -> str:
    """Draw each model's mean latency as a bar of its stages.

    Args:
        models: Label -> stage of `STAGE_COLOURS` -> mean in ms.
        alternative: What it shows, in words.
    """
    row, top = 46, 6
    height = top + row * len(models) + 24
    # Where stages overlap in time their sum can be more than the whole, and the rest below zero.
    high = max(sum(max(value, 0) for value in stages.values()) for stages in models.values()) or 1.0
    left, right = 4, 70

    def wide(value: float) -> float:
        return max(value, 0) / high * (_WIDTH - left - right)

    body = []
    for number, (label, stages) in enumerate(models.items()):
        y, x = top + row * number, float(left)
        body.append(_text(left, y + 12, label, anchor="start", style="strong"))
        for stage, value in stages.items():
            if wide(value) > 0:
                shown = html.escape(f"{stage.replace('_', '-')} {value:.3f} ms")
                body.append(
                    f'<rect x="{x:.2f}" y="{y + 18}" width="{wide(value):.2f}" height="18" '
                    f'style="fill:var({STAGE_COLOURS[stage]})"><title>{shown}</title></rect>'
                )
            x += wide(value)
        body.append(_text(x + 6, y + 31, f"{_short(sum(stages.values()))} ms", anchor="start"))
    for value in _ticks(0, high, 8):
        body.append(_text(left + wide(value), height - 4, _label(value)))
    return _frame(height, body, alternative)
