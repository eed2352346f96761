"""Figures of reports: score distributions and latency, each as its own `Figure` without pyplot."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cada_edge.benchmarks.finding import significant

__all__ = [
    "DARK",
    "FONT_PT",
    "LIGHT",
    "WIDTH_IN",
    "Theme",
    "draw_latency",
    "draw_scores",
    "order_kinds",
    "shorten",
    "to_png",
]


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance; blue against orange, for colour-blind eyes."""

    paper: str
    """Background."""
    ink: str
    """Text and the threshold."""
    faint: str
    """Axes and row bands."""
    normal: str
    """Good parts."""
    anomalous: str
    """Defective parts."""


LIGHT = Theme(paper="#ffffff", ink="#1c2128", faint="#e3e6ea", normal="#2468b4", anomalous="#d9541e")
DARK = Theme(paper="#14171b", ink="#dfe3e8", faint="#2b3037", normal="#6cb0f5", anomalous="#ff9455")

WIDTH_IN = 5.0
"""Width of a figure: at its natural size on a phone, and two of them beside each other on a desk."""
FONT_PT = 9.0
"""Size of the text."""

_DPI = 200
_LABEL_LENGTH = 16


def order_kinds(
    scores: NDArray[np.floating[Any]], categories: Sequence[str], anomalous: NDArray[np.bool_]
) -> list[str]:
    """Return the kinds by their median normal score, lowest first; those without normal images come last.

    Args:
        scores: (N,), for the order of several drawings those without alignment.
        categories: Kind of each image, (N,).
        anomalous: (N,).
    """
    names = np.array(categories)
    medians = {}
    for kind in sorted(set(categories)):
        normal = scores[(names == kind) & ~anomalous]
        medians[kind] = float(np.median(normal)) if normal.size else float("inf")
    return sorted(medians, key=lambda kind: medians[kind])


def draw_scores(
    scores: NDArray[np.floating[Any]],
    categories: Sequence[str],
    anomalous: NDArray[np.bool_],
    *,
    kinds: Sequence[str],
    threshold: float | None,
    title: str | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw every image's score, kind by kind, good above defective, and the one threshold through all kinds.

    In the manner of the paper's Fig. 5.

    Args:
        scores: (N,).
        categories: Kind of each image, (N,).
        anomalous: (N,).
        kinds: From top to bottom.
        threshold: None where there is none to draw.
        title: What the scores are of, for a figure that stands alone: it then explains its colours too.
        theme: Colours.
    """
    figure, axes = _blank(theme, height_in=0.95 + 0.36 * len(kinds) + (0.45 if title else 0))
    names = np.array(categories)
    for row, kind in enumerate(kinds):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=theme.faint, alpha=0.45, linewidth=0)
        for is_anomalous, offset, colour in ((False, -0.2, theme.normal), (True, 0.2, theme.anomalous)):
            _draw_strip(axes, scores[(names == kind) & (anomalous == is_anomalous)], row + offset, colour)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_yticks(range(len(kinds)), [shorten(kind) for kind in kinds])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_scale_scores(axes, scores, threshold))
    if threshold is not None:
        _draw_threshold(axes, threshold, theme)
    if title:
        _explain(figure, title, theme)
    return figure


def _explain(figure: Figure, title: str, theme: Theme) -> None:
    """Write a title above the axes, and below them what the colours mean."""
    figure.suptitle(title, fontsize=FONT_PT, color=theme.ink, x=0.01, ha="left", parse_math=False)
    marks = [
        Line2D([], [], linestyle="", marker="o", color=colour, label=label)
        for colour, label in ((theme.normal, "good"), (theme.anomalous, "defective"))
    ]
    marks.append(Line2D([], [], linestyle="", marker="|", markersize=9, color=theme.ink, label="median"))
    figure.legend(
        handles=marks,
        loc="outside lower right",
        ncols=len(marks),
        frameon=False,
        fontsize=FONT_PT - 1,
        labelcolor=theme.ink,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _draw_threshold(axes: Axes, threshold: float, theme: Theme) -> None:
    axes.axvline(threshold, color=theme.ink, linewidth=1.2, linestyle=(0, (5, 2)))
    axes.annotate(
        f"threshold {significant(threshold)}",
        (threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=FONT_PT,
        color=theme.ink,
    )


def draw_latency(
    latency_ms: NDArray[np.float64], *, percentiles: Iterable[int] = (50, 90, 99), theme: Theme = LIGHT
) -> Figure:
    """Draw the histogram of the frames' latencies with their percentiles.

    Args:
        latency_ms: (N,), N >= 1.
        percentiles: Which to mark, rising.
        theme: Colours.
    """
    figure, axes = _blank(theme, height_in=2.3)
    axes.hist(latency_ms, bins=min(60, max(10, len(latency_ms) // 5)), color=theme.normal, linewidth=0)
    top = 1.02
    for percentile in percentiles:
        value = float(np.percentile(latency_ms, percentile))
        axes.axvline(value, color=theme.ink, linewidth=1.0, linestyle=(0, (5, 2)))
        axes.annotate(
            f"p{percentile}",
            (value, top),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=FONT_PT,
            color=theme.ink,
        )
        top += 0.09
    axes.set_xlim(left=0)
    axes.set_xlabel("frame to detection, ms")
    axes.set_ylabel("frames")
    return figure


def to_png(drawing: Figure | NDArray[np.uint8]) -> bytes:
    """Return a figure, or an RGBA image at one pixel a pixel, as a PNG file's bytes.

    Args:
        drawing: A figure, or uint8 (H, W, 4).
    """
    buffer = io.BytesIO()
    # Without the program's name in it, the same drawing gives the same bytes.
    metadata: dict[str, Any] = {"Software": None}
    if isinstance(drawing, Figure):
        FigureCanvasAgg(drawing)
        with warnings.catch_warnings():
            # A kind's name may be in any script; the box in its place is no reason to fail.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            drawing.savefig(buffer, format="png", dpi="figure", metadata=metadata)
    else:
        imsave(buffer, drawing, format="png", metadata=metadata)
    return buffer.getvalue()


def shorten(name: str) -> str:
    """Cut a name to the length that a label has room for."""
    return name if len(name) <= _LABEL_LENGTH else name[: _LABEL_LENGTH - 1] + "…"


def _blank(theme: Theme, *, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=_DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.ink)
    axes.tick_params(colors=theme.ink, labelsize=FONT_PT)
    axes.xaxis.label.set(color=theme.ink, fontsize=FONT_PT)
    axes.yaxis.label.set(color=theme.ink, fontsize=FONT_PT)
    return figure, axes


def _draw_strip(axes: Axes, scores: NDArray[np.floating[Any]], height: float, colour: str) -> None:
    """Draw every score as a point and their median as a stroke."""
    if not scores.size:
        return
    # Points step up and down by the golden ratio: neighbours in score lie apart, the same in each run.
    steps = np.arange(len(scores)) * 0.618034 % 1 - 0.5
    order = np.argsort(scores, kind="stable")
    area = 14.0 if len(scores) <= 40 else 6.0
    axes.scatter(
        scores[order],
        height + 0.24 * steps,
        s=area,
        color=colour,
        alpha=0.55,
        linewidths=0,
        clip_on=False,
        zorder=3,
    )
    axes.vlines(float(np.median(scores)), height - 0.17, height + 0.17, color=colour, linewidth=2.0, zorder=4)


def _scale_scores(axes: Axes, scores: NDArray[np.floating[Any]], threshold: float | None) -> str:
    """Fit the score axis and name it; a few far scores that would squeeze the rest get a logarithmic end."""
    marked = [] if threshold is None else [threshold]
    values = np.append(np.asarray(scores, np.float64), marked)
    low, high = float(values.min()), float(values.max())
    most = max(float(np.quantile(values, 0.95)), *marked, -np.inf)
    if most <= 0 or high - low < 3 * (most - low):
        margin = 0.03 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        return "score"
    axes.set_xscale("symlog", linthresh=most, linscale=2.5)
    axes.set_xlim(low - 0.05 * (most - low), 1.3 * high)
    ticks = [tick for tick in MaxNLocator(4).tick_values(low, most) if low <= tick <= most]
    axes.set_xticks([*ticks, high], [f"{tick:.3g}" for tick in (*ticks, high)])
    axes.minorticks_off()
    return f"score (logarithmic above {most:.3g})"
