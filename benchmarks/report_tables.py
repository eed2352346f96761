"""The report's tables: ranking metrics, and the verdicts of each kind at the one threshold."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cada_edge.benchmarks.demo_result import VARIANTS, DemoResult
from cada_edge.benchmarks.finding import count_verdicts, decimals_for, describe_rate, signed, significant
from cada_edge.benchmarks.report_page import escape, paragraph, section, table
from cada_edge.runtime.evaluation import METRICS

__all__ = ["metrics_section", "verdicts_section"]

_METRIC_HEADS = {"i_auroc": "I-AUROC", "i_ap": "I-AP", "p_auroc": "P-AUROC", "p_ap": "P-AP", "aupro": "AUPRO"}
_READINGS: tuple[tuple[Literal["mixed", "averaged"], str], ...] = (
    ("mixed", "Mixed: all kinds ranked together, as one threshold sees them"),
    ("averaged", "Averaged: each kind ranked alone, mean over the kinds"),
)


def metrics_section(result: DemoResult) -> str:
    """Return the table of ranking metrics, mixed and averaged, its protocol and the reasons of its gaps."""
    rows = []
    for reading, label in _READINGS:
        rows.append(f'<tr class="group"><th colspan="6" scope="rowgroup">{escape(label)}</th></tr>')
        figures = {name: dict(getattr(result.variants[name].evaluation, reading)) for name in VARIANTS}
        rows += [_metric_row(name, figures[name], decimals_for(result)) for name in VARIANTS]
        changes = {
            metric: None
            if figures["none"][metric] is None or figures["cada"][metric] is None
            else figures["cada"][metric] - figures["none"][metric]
            for metric in METRICS
        }
        rows.append(_metric_row("cada against none", changes, decimals_for(result), change=True))
    defective = int(np.count_nonzero(result.anomalous))
    caption = (
        f"In %, on {len(result.anomalous)} test images "
        f"({len(result.anomalous) - defective} good, {defective} defective). "
        "class-aware is told each part's kind, in training and here: a reference, not a product."
    )
    return section(
        "Does alignment help?",
        table(["", *_METRIC_HEADS.values()], rows, caption=caption),
        _missing_figures(result),
        _protocol(result),
    )


def _metric_row(label: str, figures: dict[str, float | None], digits: int, *, change: bool = False) -> str:
    cells = []
    for metric in METRICS:
        value = figures[metric]
        text = "–" if value is None else signed(value, digits) if change else f"{value:.{digits}f}"
        cells.append(f"<td>{text}</td>")
    return f'<tr class="{"sum" if change else ""}"><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>'


def _missing_figures(result: DemoResult) -> str:
    """Give the reason of every dash, variants and figures with the same one together."""
    missing: dict[str, list[str]] = {}
    for name in VARIANTS:
        for path, reason in result.variants[name].evaluation.reasons.items():
            missing.setdefault(reason, []).append(f"{name} {path.replace('_', ' ')}")
    lines = [f"<li>–: {escape(', '.join(paths))}: {escape(reason)}</li>" for reason, paths in missing.items()]
    return f'<ul class="small">{"".join(lines)}</ul>' if lines else ""


def _protocol(result: DemoResult) -> str:
    """Print one line for all variants where they share it."""
    lines: dict[str, list[str]] = {}
    for name in VARIANTS:
        protocol = dict(result.variants[name].evaluation.protocol)
        # The verdicts' table shows it, rounded; the alignment is the row's name.
        protocol.pop("threshold", None)
        protocol.pop("alignment", None)
        line = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items())
        lines.setdefault(line, []).append(name)
    if len(lines) == 1:
        return paragraph(f"Protocol: {next(iter(lines))}.", style="protocol")
    return "".join(
        paragraph(f"Protocol of {', '.join(names)}: {line}.", style="protocol")
        for line, names in lines.items()
    )


def verdicts_section(result: DemoResult) -> str:
    """Return the false alarms and the defects found of each kind, for every variant at its one threshold."""
    thresholds = ", ".join(f"{name} {significant(result.variants[name].threshold)}" for name in VARIANTS)
    return section(
        "At the one threshold: what the line would see",
        paragraph(
            "Each alignment has one threshold for all kinds, set by the same rule on the same held-out good "
            f"parts: {thresholds}. An image that scores above it is an alarm."
        ),
        '<div class="columns">'
        + _verdict_table(result, "false_alarms")
        + _verdict_table(result, "detected")
        + "</div>",
    )


def _verdict_table(result: DemoResult, verdict: Literal["false_alarms", "detected"]) -> str:
    images: Literal["normal_images", "anomalous_images"]
    if verdict == "false_alarms":
        images, caption, style = "normal_images", "False alarms among the good test parts", "bar"
    else:
        images, caption, style = "anomalous_images", "Defective test parts found", "bar found"
    evaluations = [result.variants[name].evaluation for name in VARIANTS]
    rows = []
    for kind, first in evaluations[0].per_kind.items():
        total = first[images]
        cells = "".join(_bar(evaluation.per_kind[kind][verdict], total, style) for evaluation in evaluations)
        rows.append(f'<tr><th scope="row">{escape(kind)}</th><td>{total}</td>{cells}</tr>')
    sums = [count_verdicts(evaluation, verdict) for evaluation in evaluations]
    total = sum(figures[images] for figures in evaluations[0].per_kind.values())
    cells = "".join(_bar(None if counted is None else counted[0], total, style) for counted in sums)
    rows.append(f'<tr class="total"><th scope="row">all kinds</th><td>{total}</td>{cells}</tr>')
    lines = [
        f"<li>{escape(name)}: "
        + (escape(describe_rate(*counted)) if counted else escape(_reason(result, name, verdict)))
        + "</li>"
        for name, counted in zip(VARIANTS, sums, strict=True)
    ]
    return (
        f"<div>{table(['', 'images', *VARIANTS], rows, caption=caption, style='verdicts')}"
        f'<ul class="small">{"".join(lines)}</ul></div>'
    )


def _bar(count: int | None, total: int, style: str) -> str:
    if count is None or not total:
        return "<td>–</td>"
    return f'<td class="{style}" style="--share: {100 * count / total:.0f}%">{count}</td>'


def _reason(result: DemoResult, variant: str, verdict: str) -> str:
    """Say why a variant has no verdicts: without threshold for all, without images for one rate."""
    reasons = result.variants[variant].evaluation.reasons
    rate = "false_positive_rate" if verdict == "false_alarms" else "true_positive_rate"
    return f"– {reasons.get('threshold') or reasons.get(rate) or 'there are no such images'}"
