"""A benchmark's report as one HTML file that needs nothing else: no script, no font and no other host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cada_edge.benchmarks.bench_charts import (
    CHART_STYLE,
    STAGE_COLOURS,
    draw_histogram,
    draw_series,
    draw_stages,
)
from cada_edge.benchmarks.bench_figures import mean_stages, most_shown_ms
from cada_edge.benchmarks.bench_machine import machine_lines
from cada_edge.benchmarks.bench_tables import (
    TextTable,
    accuracy_tables,
    headline,
    measured_tables,
    model_table,
)
from cada_edge.benchmarks.report_page import definitions, document, escape, paragraph, section, table

__all__ = ["to_html"]


def to_html(record: Mapping[str, Any]) -> str:
    """Return the page of a record of `run_bench`."""
    tables = measured_tables(record)
    # A camera's late and dropped frames belong to its latency.
    first = 2 if record["config"]["mode"] == "camera" else 1
    body = [
        f"<h1>cada-edge bench, {escape(record['started_at'])}</h1>",
        *(paragraph(line, style="lead") for line in _lead(record)),
        *(paragraph(line, style="small") for line in headline(record)),
        _gates(record),
        _warnings(record),
        section("Latency", *(_table(each) for each in tables[:first])),
        section("How often each latency came", _columns(record, _histogram)),
        section("Over time", _columns(record, _series)),
        section("Where the time goes", _stage_bars(record), *(_table(each) for each in tables[first:])),
        _accuracy(record),
        section("What was measured", _table(_turned(model_table(record)))),
        section("Machine", definitions(dict(machine_lines(record["machine"])))),
    ]
    return document("cada-edge bench", [part for part in body if part], style=CHART_STYLE)


def _lead(record: Mapping[str, Any]) -> Iterator[str]:
    """Say the result in a sentence for each model."""
    for subject in record["subjects"]:
        latency, camera = subject["latency_ms"], subject["camera"]
        text = (
            f"{subject['label']}: p50 {_percentile(latency['p50'])}, p99 {_percentile(latency['p99'])}, "
            f"{subject['images_per_second']:.1f} images/s"
        )
        if camera is not None:
            text += (
                f"; of {camera['due']} frames due at {record['config']['fps']:g} a second "
                f"{camera['late']} late, {camera['dropped']} dropped"
            )
        yield f"{text}."


def _percentile(value: float | None) -> str:
    return "none: dropped" if value is None else f"{value:.1f} ms"


def _accuracy(record: Mapping[str, Any]) -> str:
    tables = accuracy_tables(record)
    return section("Accuracy of the same file", *map(_table, tables)) if tables else ""


def _gates(record: Mapping[str, Any]) -> str:
    lines = []
    for gate in record["gates"]:
        style = "" if gate["passed"] else "bad"
        lines.append(
            paragraph(
                f"{'passed' if gate['passed'] else 'FAILED'}: {gate['label']}: {gate['what']}", style=style
            )
        )
    return "\n".join(lines)


def _warnings(record: Mapping[str, Any]) -> str:
    if not record["warnings"]:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in record["warnings"])
    return f'<div class="warn"><h3>Reasons to doubt these figures</h3><ul class="small">{items}</ul></div>'


def _table(shown: TextTable) -> str:
    rows = []
    for first, *others in shown.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    notes = "".join(paragraph(note, style="small") for note in shown.notes)
    return table(shown.heads, rows, caption=shown.title) + notes


def _turned(shown: TextTable) -> TextTable:
    """Make rows of the columns: few models, with long entries."""
    first, *others = zip(shown.heads, *shown.rows, strict=True)
    return TextTable(shown.title, list(first), [list(each) for each in others], shown.notes)


def _columns(record: Mapping[str, Any], draw: Any) -> str:
    figures = [f"<figure>{draw(subject, record)}</figure>" for subject in record["subjects"]]
    return f'<div class="columns">{"".join(figures)}</div>'


def _histogram(subject: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    latency = subject["latency_ms"]
    # One scale for all models: the pictures are looked at beside each other.
    most_ms = most_shown_ms(record)
    chart = draw_histogram(
        np.asarray(subject["samples"]["total_ms"]),
        {name: latency[name] for name in ("p50", "p99") if latency[name] is not None},
        alternative=f"Histogram of {latency['n']} latencies of {subject['label']}",
        most_ms=most_ms,
    )
    words = f"{subject['label']}: all {latency['n']} samples; the number of samples is on a logarithmic scale"
    return f"{chart}<figcaption>{escape(words)}</figcaption>"


def _series(subject: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    config = record["config"]
    limit_ms = 1e3 / config["fps"] if config["mode"] == "camera" else None
    chart = draw_series(
        np.asarray(subject["samples"]["at_ms"]) / 1e3,
        np.asarray(subject["samples"]["total_ms"]),
        np.asarray(subject["samples"]["block"]),
        alternative=f"Latency of {subject['label']} over time",
        limit_ms=limit_ms,
    )
    words = f"{subject['label']}: median, and from the smallest to the largest sample of each moment"
    return f"{chart}<figcaption>{escape(words)}</figcaption>"


def _stage_bars(record: Mapping[str, Any]) -> str:
    models = mean_stages(record)
    used = [name for name in STAGE_COLOURS if any(name in stages for stages in models.values())]
    keys = "".join(
        f'<i style="background:var({STAGE_COLOURS[name]})"></i>{escape(name.replace("_", "-"))}'
        for name in used
    )
    chart = draw_stages(models, alternative="Mean latency of each model by stage, in ms")
    return f'<figure class="wide">{chart}</figure><p class="keys">mean, ms:{keys}</p>'
