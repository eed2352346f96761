"""A benchmark's report for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cada_edge.benchmarks.bench_compare import differences, pair_subjects, unlike
from cada_edge.benchmarks.bench_machine import machine_lines
from cada_edge.benchmarks.bench_tables import (
    DROPPED,
    TextTable,
    accuracy_tables,
    headline,
    measured_tables,
    model_table,
)

__all__ = ["compare_to_dict", "compare_to_text", "to_markdown", "to_text"]


def to_text(record: Mapping[str, Any]) -> str:
    """Return the report in aligned columns."""
    lines = headline(record)
    for table in (*measured_tables(record), *accuracy_tables(record), model_table(record)):
        lines += ["", table.title, *_aligned(table), *(f"  {note}" for note in table.notes)]
    lines += ["", "Machine", *(f"  {name}: {value}" for name, value in machine_lines(record["machine"]))]
    lines += _verdicts(record, "warning: {}", "{}: {}: {}")
    return "\n".join(lines)


def to_markdown(record: Mapping[str, Any]) -> str:
    """Return the report as Markdown, a heading for each part."""
    lines = [f"# Benchmark, {record['started_at']}", "", *(f"* {line}" for line in headline(record))]
    for table in (*measured_tables(record), *accuracy_tables(record), model_table(record)):
        lines += ["", f"## {table.title}", "", *piped(table)]
        if table.notes:
            lines += ["", *(f"* {_escaped(note)}" for note in table.notes)]
    lines += ["", "## Machine", ""]
    lines += [f"* {name}: {value}" for name, value in machine_lines(record["machine"])]
    verdicts = _verdicts(record, "* **warning:** {}", "* **{}:** {}: {}")
    return "\n".join([*lines, *(["", "## Gates and warnings", "", *verdicts[1:]] if verdicts else [])]) + "\n"


def _verdicts(record: Mapping[str, Any], warning: str, gate: str) -> list[str]:
    lines = [warning.format(text) for text in record["warnings"]]
    for each in record["gates"]:
        lines.append(gate.format("passed" if each["passed"] else "FAILED", each["label"], each["what"]))
    return ["", *lines] if lines else []


def _aligned(table: TextTable) -> list[str]:
    cells = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heads))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in cells
    ]


def piped(table: TextTable) -> list[str]:
    """Return a table's lines in Markdown."""
    rows = [f"| {' | '.join(map(_escaped, row))} |" for row in (table.heads, *table.rows)]
    return [rows[0], f"|---|{'---:|' * (len(table.heads) - 1)}", *rows[1:]]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def compare_to_dict(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Set two records beside each other.

    Returns:
        not_comparable (in what they measure something else), differences (versions and settings), models:
        label, and for each figure its value in both (None: a percentile that is a dropped frame) and their
        ratio, the newer over the older.
    """
    models = []
    for before, after in pair_subjects(old, new):
        names = [name for name in before["latency_ms"] if name in after["latency_ms"]]
        figures: dict[str, Any] = {}
        for name in names:
            if name == "n" or name.endswith("_interval"):
                continue
            figures[f"{name} ms"] = _beside(before["latency_ms"][name], after["latency_ms"][name])
        figures["images/s"] = _beside(before["images_per_second"], after["images_per_second"])
        if before["camera"] is not None and after["camera"] is not None:
            for name in ("late_share", "dropped_share"):
                figures[name.replace("_", " ")] = _beside(before["camera"][name], after["camera"][name])
        models.append({"label": after["label"], "was": before["label"], "figures": figures})
    return {"not_comparable": unlike(old, new), "differences": differences(old, new), "models": models}


def _beside(old: float | None, new: float | None) -> dict[str, float | None]:
    return {"old": old, "new": new, "ratio": new / old if old and new is not None else None}


def _shown(value: float | None) -> str:
    return DROPPED if value is None else f"{value:.3f}"


def compare_to_text(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return `compare_to_dict` for people."""
    found = compare_to_dict(old, new)
    lines = [f"{record['started_at']}: {record['how']}" for record in (old, new)]
    for model in found["models"]:
        rows = [
            [
                name,
                _shown(each["old"]),
                _shown(each["new"]),
                "-" if each["ratio"] is None else f"x{each['ratio']:.3f}",
            ]
            for name, each in model["figures"].items()
        ]
        was = "" if model["was"] == model["label"] else f" (was {model['was']})"
        table = TextTable(f"{model['label']}{was}", ["", "old", "new", "new / old"], rows, [])
        lines += ["", table.title, *_aligned(table)]
    lines += [""]
    lines += [f"NOT COMPARABLE: {line}" for line in found["not_comparable"]]
    lines += [f"differs: {line}" for line in found["differences"]]
    if not found["not_comparable"]:
        lines.append("mode, batch, frame sizes, engine, threads and machine are equal")
    return "\n".join(lines)
