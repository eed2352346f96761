"""The content of a benchmark's report as tables of text, which terminal, Markdown and HTML draw alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cada_edge.benchmarks.bench_blocks import STAGES
from cada_edge.benchmarks.paper import HEADINGS
from cada_edge.runtime.run_options import RunOptions

__all__ = ["DROPPED", "TextTable", "accuracy_tables", "headline", "measured_tables", "model_table"]

_BATCH_TIMEOUT_S = RunOptions().batch_timeout_s

DROPPED = "dropped"
"""In the place of a percentile that is a frame without a verdict."""

_READINGS = {"mixed": "mixed (one ranking of all kinds)", "averaged": "averaged over kinds"}


class TextTable(NamedTuple):
    """A table; the first column is left-aligned, the others right."""

    title: str
    """What it shows, with the unit."""
    heads: list[str]
    """Of the columns."""
    rows: list[list[str]]
    """Cells of each row."""
    notes: list[str]
    """What a reader must know of it."""


def headline(record: Mapping[str, Any]) -> list[str]:
    """Say what was measured, how, with which frames and where."""
    frames = record["frames"]
    lines = [
        f"cada-edge {record['version']}, {record['how']}",
        f"frames: {frames['distinct']} different ones, {', '.join(frames['sizes'])}, {frames['origin']}, "
        "in memory; decoding them is not measured",
    ]
    if record["interleaved"]:
        lines.append(f"models measured {record['interleaved']}")
    return lines


def measured_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return latency, camera, stages, ratios and energy, as far as the record has them."""
    return [
        _latency(record),
        *_camera(record),
        _stages(record),
        *_ratios(record),
        *_energy(record),
    ]


def _latency(record: Mapping[str, Any]) -> TextTable:
    levels = record["config"]["percentiles"]
    names = [f"p{level:g}" for level in levels]
    rows = []
    notes = [
        "n samples, none left out; in brackets the p99's 95 % confidence interval, by order statistics; ?: "
        "too few samples for that end, or it is a dropped frame"
    ]
    for subject in record["subjects"]:
        latency = subject["latency_ms"]
        low, high = latency["p99_interval"]
        rows.append(
            [
                subject["label"],
                str(latency["n"]),
                *(_ms(latency[name]) for name in ("min", "mean")),
                *(DROPPED if latency[name] is None else _ms(latency[name]) for name in names),
                f"[{'?' if low is None else _ms(low)}, {'?' if high is None else _ms(high)}]",
                _ms(latency["max"]),
                f"{subject['images_per_second']:.1f}",
            ]
        )
    mode = record["config"]["mode"]
    if mode == "camera":
        notes.append(
            f"percentiles are of all frames that were due, a dropped one later than any other; {DROPPED}: it "
            "is one of these. n, min, mean and max are of frames with a verdict"
        )
    what = {
        "latency": "Latency of a call, frame to verdict and sink, in ms",
        "throughput": "Time in the full pipeline, capture to sink, in ms",
        "camera": "Latency from each frame's due time to its sink, in ms",
    }[mode]
    if mode == "latency" and record["config"]["batch"] > 1:
        what += f"; a call has {record['config']['batch']} frames"
    heads = ["model", "n", "min", "mean", *names, "p99 interval", "max", "images/s"]
    return TextTable(what, heads, rows, notes)


def _camera(record: Mapping[str, Any]) -> Iterator[TextTable]:
    if record["config"]["mode"] != "camera":
        return
    fps = record["config"]["fps"]
    rows = []
    for subject in record["subjects"]:
        camera = subject["camera"]
        rows.append(
            [
                subject["label"],
                *(str(camera[name]) for name in ("due", "delivered", "late")),
                f"{100 * camera['late_share']:.2f} %",
                str(camera["dropped"]),
                f"{100 * camera['dropped_share']:.2f} %",
            ]
        )
    yield TextTable(
        "Frames of the cameras",
        ["model", "due", "with a verdict", "late", "of due", "dropped", "of due"],
        rows,
        [f"late: over {1e3 / fps:.1f} ms from due to verdict, when the camera's next frame was due"],
    )


def _stages(record: Mapping[str, Any]) -> TextTable:
    names = [*STAGES, "sum", "total", "unaccounted"]
    rows = []
    for subject in record["subjects"]:
        stages = subject["stages_ms"]
        cells = []
        for name in names:
            stage = stages[name]
            value = stage["mean"] if isinstance(stage, Mapping) else stage
            cells.append("-" if value is None else f"{value:.3f}")
        rows.append([subject["label"], *cells])
    pipelined = record["config"]["mode"] != "latency"
    notes = ["-: not measured apart; an engine on the CPU has no transfers, and compute is its whole call"]
    if pipelined:
        notes.append("in a pipeline what is unaccounted is mostly waiting between its stages")
        if record["config"]["batch"] > 1:
            notes.append(
                f"a batch waits up to {1e3 * _BATCH_TIMEOUT_S:g} ms for frames of other sources, as long as "
                "such waits bring some"
            )
    if record["config"]["batch"] > 1:
        notes.append("preprocess, compute, transfers and post are of the whole batch that a frame was in")
    heads = ["model", *(name.replace("_", "-") for name in names)]
    return TextTable("Stages, mean ms", heads, rows, notes)


def _ratios(record: Mapping[str, Any]) -> Iterator[TextTable]:
    if not record["ratios"]:
        return
    rows = []
    for ratio in record["ratios"]:
        interval = "-" if ratio["low"] is None else f"{ratio['low']:.3f} to {ratio['high']:.3f}"
        rows.append(
            [
                f"{ratio['label']} / {ratio['to']}",
                ratio["what"],
                f"x{ratio['median']:.3f}",
                interval,
                f"{ratio['minimum']:.3f} to {ratio['maximum']:.3f}",
                str(ratio["pairs"]),
            ]
        )
    yield TextTable(
        "Ratios, block by block beside each other",
        ["models", "of", "median", "its 95 % interval", "all pairs", "pairs"],
        rows,
        [],
    )


def _energy(record: Mapping[str, Any]) -> Iterator[TextTable]:
    rows = [
        [subject["label"], each["scope"], f"{each['mean_w']:.1f}", f"{each['images_per_joule']:.3g}"]
        for subject in record["subjects"]
        for each in subject["energy"]
        if each["mean_w"] is not None
    ]
    if rows:
        yield TextTable(
            "Power while measuring, idle power included",
            ["model", "reading", "mean W", "images per joule"],
            rows,
            [],
        )


def model_table(record: Mapping[str, Any]) -> TextTable:
    """Return what was measured: file, precision, engine and its mode."""
    rows = []
    for subject in record["subjects"]:
        model = subject["model"]
        height, width = model["input_hw"]
        threads = "the engine's choice" if model["threads"] is None else str(model["threads"])
        rows.append(
            [
                subject["label"],
                f"{model['base']}, {model['alignment']}",
                model["encoder"],
                f"{width}x{height}",
                model["precision"],
                model["engine"],
                threads,
                model["transfers"],
                model["sha256"][:12],
            ]
        )
    heads = ["model", "method", "encoder", "input", "precision", "engine", "threads", "transfers", "sha256"]
    return TextTable("Models", heads, rows, [])


def accuracy_tables(record: Mapping[str, Any]) -> list[TextTable]:
    """Return accuracy beside the paper's, a table for each model file."""
    found = []
    for entry in record.get("accuracy", []):
        figures, paper, drift = entry["figures"], entry["figures"]["paper"], entry["figures"]["drift"]
        rows = []
        for reading, name in _READINGS.items():
            rows.append([f"this file, {name}", *(_percent(figures[reading][key]) for key in HEADINGS)])
            if drift is not None:
                cells = [_signed(drift[reading][key]) for key in HEADINGS]
                rows.append([f"  minus {drift['of']}, in points", *cells])
            if paper is not None:
                cells = [_percent(paper["figures"][reading].get(key)) for key in HEADINGS]
                rows.append([f"  the paper's, on {paper['dataset']}, table {paper['table']}", *cells])
        data = figures["data"]
        title = (
            f"Accuracy of {entry['file']}, {figures['engine']}, on {data['name']} ({data['kinds']} kinds, "
            f"{data['test_images']} test images), in %"
        )
        found.append(TextTable(title, ["", *HEADINGS.values()], rows, list(_accuracy_notes(figures))))
    return found


def _accuracy_notes(figures: Mapping[str, Any]) -> Iterator[str]:
    paper, exported = figures["paper"], figures["exported"]
    if paper is None:
        yield "the paper has no figures of this base method and alignment"
    elif paper["not_comparable"]:
        yield f"NOT COMPARABLE with the paper's {paper['row']}: {'; '.join(paper['not_comparable'])}"
    else:
        yield f"the paper's row: {paper['row']}; data, encoder, size and recipe are its own"
    yield f"protocol: {figures['protocol_line']}"
    if figures["drift"] is None:
        # An INT8 file is held against the fp32 file that it was made of.
        origin = "the fp32 file" if figures["precision"] == "int8" else "the checkpoint"
        drift = exported and exported["auroc_drift"]
        if drift is not None:
            yield f"drift against {origin}, as measured at the export: {drift:.3f} points of I-AUROC"
        else:
            reason = (exported and exported["auroc_drift_reason"]) or "it was not measured at the export"
            yield f"drift against the checkpoint is not known: {reason}; --checkpoint FILE measures it"
    for path, reason in figures["reasons"].items():
        yield f"missing: {path}: {reason}"


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
