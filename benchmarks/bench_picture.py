"""A benchmark's charts as one PNG picture, for a slide or a ticket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cada_edge.benchmarks.bench_charts import LIGHT_COLOURS, STAGE_COLOURS
from cada_edge.benchmarks.bench_figures import mean_stages, most_shown_ms
from cada_edge.benchmarks.bench_tables import DROPPED
from cada_edge.benchmarks.plots import FONT_PT, LIGHT, to_png

__all__ = ["to_picture"]

_WIDTH_IN = 10.0
_ROW_IN = 2.5
_BAR_IN = 0.42
_BINS = 80


def to_picture(record: Mapping[str, Any]) -> bytes:
    """Draw a record of `run_bench`.

    Returns:
        A PNG file: for each model the histogram of its latencies and their course over time, on scales that
        all models share, and below them every model's mean latency by stage.
    """
    subjects = record["subjects"]
    bars_in = 0.95 + _BAR_IN * len(subjects)
    figure = Figure(
        figsize=(_WIDTH_IN, 0.4 + _ROW_IN * len(subjects) + bars_in),
        dpi=150,
        facecolor=LIGHT.paper,
        layout="constrained",
    )
    config = record["config"]
    figure.suptitle(
        f"cada-edge {record['version']} bench, {config['mode']}, {record['started_at']}, "
        f"{record['machine']['cpu']}{_verdicts(record)}",
        fontsize=FONT_PT,
        color=LIGHT.ink,
        x=0.01,
        ha="left",
        parse_math=False,
    )
    grid = figure.add_gridspec(len(subjects) + 1, 2, height_ratios=[_ROW_IN] * len(subjects) + [bars_in])
    most_ms = most_shown_ms(record)
    worst_ms = 1.05 * max(each["latency_ms"]["max"] for each in subjects)
    limit_ms = 1e3 / config["fps"] if config["mode"] == "camera" else None
    for row, subject in enumerate(subjects):
        _histogram(_styled(figure.add_subplot(grid[row, 0])), subject, most_ms)
        _series(_styled(figure.add_subplot(grid[row, 1])), subject, max(worst_ms, limit_ms or 0), limit_ms)
    _stages(_styled(figure.add_subplot(grid[len(subjects), :])), mean_stages(record))
    return to_png(figure)


def _verdicts(record: Mapping[str, Any]) -> str:
    """Say what a reader must not miss, in a line; the other reports say it in words."""
    parts = []
    failed = sum(not gate["passed"] for gate in record["gates"])
    if record["gates"]:
        parts.append(f"{failed} of {len(record['gates'])} gates FAILED" if failed else "all gates passed")
    if record["warnings"]:
        parts.append(f"{len(record['warnings'])} reasons to doubt these figures, see the report in words")
    return f"\n{'; '.join(parts)}" if parts else ""


def _styled(axes: Axes) -> Axes:
    axes.set_facecolor(LIGHT.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=LIGHT.ink, labelsize=FONT_PT - 1)
    axes.xaxis.label.set_fontsize(FONT_PT)
    axes.yaxis.label.set_fontsize(FONT_PT)
    return axes


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=FONT_PT, loc="left", color=LIGHT.ink, parse_math=False)


def _histogram(axes: Axes, subject: Mapping[str, Any], most_ms: float) -> None:
    """Draw on a logarithmic scale, where a stall that came once is seen beside ten thousand calls."""
    total_ms = np.asarray(subject["samples"]["total_ms"])
    latency = subject["latency_ms"]
    counts, _, _ = axes.hist(total_ms, bins=_BINS, range=(0, most_ms), color=LIGHT.normal, linewidth=0)
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    most = int(np.max(counts))
    ticks = [0, *(10**power for power in range(7) if 10**power < most / 1.5), most]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    shown = {name: latency[name] for name in ("p50", "p99")}
    percentiles = ", ".join(
        f"{name} {DROPPED if value is None else f'{value:.2f} ms'}" for name, value in shown.items()
    )
    for value in shown.values():
        if value is not None:
            axes.axvline(value, color=LIGHT.anomalous, linewidth=1.2, linestyle=(0, (5, 2)))
    axes.set_xlim(0, most_ms)
    beyond = int((total_ms > most_ms).sum())
    tail = f"; {beyond} beyond, up to {latency['max']:.1f} ms" if beyond else ""
    axes.set_xlabel(f"latency, ms{tail}")
    axes.set_ylabel("samples")
    _title(
        axes,
        f"{subject['label']}\n{percentiles}, n {latency['n']}, {subject['images_per_second']:.1f} images/s"
        f"{_of_cameras(subject['camera'])}",
    )


def _of_cameras(camera: Mapping[str, Any] | None) -> str:
    if camera is None:
        return ""
    return f"\nof {camera['due']} frames that were due {camera['late']} late, {camera['dropped']} dropped"


def _series(axes: Axes, subject: Mapping[str, Any], top_ms: float, limit_ms: float | None) -> None:
    samples = subject["samples"]
    at_s = np.asarray(samples["at_ms"]) / 1e3
    axes.plot(at_s, samples["total_ms"], ".", markersize=2, color=LIGHT.normal, rasterized=True)
    axes.set_ylim(0, top_ms)
    axes.set_xlim(left=0)
    axes.set_xlabel("time since the first block began, s")
    axes.set_ylabel("ms")
    if limit_ms is not None:
        axes.axhline(limit_ms, color=LIGHT.anomalous, linewidth=1.2, linestyle=(0, (5, 2)))
        _title(axes, f"every sample; a frame is due every {limit_ms:.1f} ms")
    else:
        _title(axes, "every sample")


def _stages(axes: Axes, models: Mapping[str, Mapping[str, float]]) -> None:
    used = [name for name in STAGE_COLOURS if any(name in stages for stages in models.values())]
    for row, stages in enumerate(models.values()):
        left = 0.0
        for name, value in stages.items():
            # Where stages overlap in time, what is unaccounted for is below zero.
            width = max(value, 0.0)
            axes.barh(row, width, left=left, height=0.6, color=LIGHT_COLOURS[STAGE_COLOURS[name]])
            left += width
    axes.set_yticks(range(len(models)), list(models))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.set_xlabel("mean latency by stage, ms")
    handles = [Patch(color=LIGHT_COLOURS[STAGE_COLOURS[name]], label=name.replace("_", "-")) for name in used]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=FONT_PT - 1,
        handlelength=0.9,
        columnspacing=1.2,
    )
