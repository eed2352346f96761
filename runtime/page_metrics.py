"""The figures in the text format of Prometheus.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CONTENT_TYPE", "render_metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Sample = tuple[str, Mapping[str, str], float | None]
"""What follows the metric's name, the labels, the value; None where it is not known: no sample is written."""

_COUNTS = {
    "captured": "Frames that the source handed over.",
    "delivered": "Frames that were taken for inspection.",
    "dropped": "Frames that were given up for newer ones.",
    "corrupt": "Frames that could not be decoded.",
}


def render_metrics(state: Mapping[str, Any]) -> str:
    """Render the page's state: what `PageState.snapshot` of `page_state` gives, and the model."""
    lines: list[str] = []
    for name, kind, text, samples in _metrics(state):
        written = [
            f"cada_edge_{name}{suffix}{_labels(labels)} {float(value)!r}"
            for suffix, labels, value in samples
            if value is not None
        ]
        if written:
            lines += [f"# HELP cada_edge_{name} {text}", f"# TYPE cada_edge_{name} {kind}", *written]
    return "\n".join(lines) + "\n"


def _metrics(state: Mapping[str, Any]) -> Iterable[tuple[str, str, str, list[_Sample]]]:
    sources = state.get("sources", [])
    model = state.get("model", {})
    labels = {"version": str(model.get("version", "")), "model_sha256": str(model.get("sha256", ""))}
    yield "info", "gauge", "Version and model of the inspection.", [("", labels, 1.0 if state else None)]
    running = None if not state else float(state["run"] == "running")
    yield "running", "gauge", "Whether the inspection runs.", [("", {}, running)]
    yield (
        "inspected_frames_total",
        "counter",
        "Frames with a verdict.",
        [("", _source(each), each["inspected"]) for each in sources],
    )
    yield (
        "anomalous_frames_total",
        "counter",
        "Frames whose score was above the threshold.",
        [("", _source(each), each["anomalous"]) for each in sources],
    )
    for count, text in _COUNTS.items():
        yield f"{count}_frames_total", "counter", text, _of_counts(sources, count)
    yield "waiting_frames", "gauge", "Frames that are held for inspection.", _of_counts(sources, "waiting")
    yield (
        "source_gaps_total",
        "counter",
        "Frames that never came, by the source's own numbering.",
        _of_counts(sources, "source_gaps"),
    )
    yield (
        "source_up",
        "gauge",
        "Whether the source delivers.",
        [("", _source(each), float(each["status"] == "live")) for each in sources],
    )
    lasts = [(each, each["last"] or {}) for each in sources]
    yield (
        "source_frame_age_seconds",
        "gauge",
        "Time since the newest inspected frame was captured.",
        [("", _source(each), last.get("age_s")) for each, last in lasts],
    )
    yield (
        "score",
        "gauge",
        "Aligned score of the newest frame.",
        [("", _source(each), last.get("score")) for each, last in lasts],
    )
    yield "threshold", "gauge", "Score above which a frame is anomalous.", [("", {}, model.get("threshold"))]
    yield "refused_frames_total", "counter", "Frames of a wrong size.", [("", {}, state.get("refused"))]
    yield "latency_seconds", "summary", "Time from capture to verdict.", _latency(state)
    yield (
        "events_total",
        "counter",
        "Events of sources and files.",
        [("", {"kind": kind}, count) for kind, count in sorted(state.get("event_counts", {}).items())],
    )


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    return {"source": source["name"]}


def _of_counts(sources: Iterable[Mapping[str, Any]], name: str) -> list[_Sample]:
    return [("", _source(each), each["counts"][name]) for each in sources if each["counts"] is not None]


def _latency(state: Mapping[str, Any]) -> list[_Sample]:
    figures = state.get("latency_ms", {})
    total = state.get("latency", {})
    quantiles: list[_Sample] = [
        ("", {"quantile": quantile}, figures[name] / 1e3)
        for name, quantile in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"))
        if name in figures
    ]
    return [*quantiles, ("_sum", {}, total.get("sum_s")), ("_count", {}, total.get("count"))]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
