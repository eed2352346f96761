"""What a reproduction found, beside the paper's figures: as text, Markdown and plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cada_edge.benchmarks.paper import HEADINGS, PaperTable, disagreements, load_datasets
from cada_edge.benchmarks.reproduction_plan import PlannedRow

__all__ = ["ReproducedRow", "Reproduction", "describe_protocols"]

Figures = Mapping[str, Sequence[float]]
"""Metric -> our figure for each seed, in percent; a metric that is missing is not among them."""

_READINGS = {"averaged": "averaged over kinds (model-unified)", "mixed": "mixed (absolute-unified)"}

_PER_ROW = ("alignment", "image_score", "seed")
"""Protocol fields that the rows themselves name."""


@dataclass(frozen=True)
class ReproducedRow:
    """One row on one data set."""

    planned: PlannedRow
    """What was wanted."""
    cells: tuple[dict[str, Any], ...]
    """What was found, one per finished seed, as `cada_edge.benchmarks.reproduction_cells` keeps it."""
    reason: str
    """Why figures are missing; empty where none are."""

    def ours(self, reading: str) -> dict[str, list[float]]:
        """Return our figures of one reading, metric -> percent for each seed."""
        found: dict[str, list[float]] = {}
        for cell in self.cells:
            for metric in HEADINGS:
                value = cell["figures"][reading][metric]
                if value is not None:
                    found.setdefault(metric, []).append(value)
        return found

    def paper(self, reading: str) -> Mapping[str, float]:
        """Return the paper's figures of one reading, metric -> percent."""
        return self.planned.row.figures.get(self.planned.dataset, {}).get(reading, {})


@dataclass(frozen=True)
class _Block:
    """Rows that are printed under one heading."""

    heading: str
    signed: bool
    """Whether the figures are gains."""
    rows: Sequence[tuple[str, Figures, Mapping[str, float]]]
    """Label, ours, the paper's."""


@dataclass(frozen=True)
class Reproduction:
    """One table of the paper, ours and theirs."""

    table: PaperTable
    """Which."""
    rows: tuple[ReproducedRow, ...]
    """In the paper's order, data set by data set."""
    seeds: tuple[int, ...]
    """Of the trainings; our figure is the mean over them."""
    data: tuple[str, ...]
    """What the folders hold beside what the paper has."""
    departures: tuple[str, ...]
    """Values that are not those of the paper's recipe."""
    protocol: tuple[str, ...]
    """How our figures were measured, one line for each way."""

    @property
    def failed(self) -> list[str]:
        """Rows whose training was tried and failed."""
        tried = [row for row in self.rows if row.planned.cells]
        return [f"{row.planned.row.name} on {row.planned.dataset}" for row in tried if row.reason]

    def to_text(self) -> str:
        """Return aligned columns for a terminal."""
        return self._write(_aligned, heading="{}", line="{}")

    def to_markdown(self) -> str:
        """Return Markdown, a table for each heading."""
        return self._write(_piped, heading="## {}", line="- {}")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-safe; every image's score stays in the cells' own files."""
        return {
            "table": self.table.number,
            "title": self.table.title,
            "seeds": list(self.seeds),
            "rows": [self._row_to_dict(row) for row in self.rows],
            "data": list(self.data),
            "departures": list(self.departures),
            "protocol": list(self.protocol),
            "notes": self.notes(),
        }

    def _row_to_dict(self, row: ReproducedRow) -> dict[str, Any]:
        method = row.planned.row.method
        ours = {reading: row.ours(reading) for reading in _READINGS}
        return {
            "row": row.planned.row.name,
            "label": row.planned.row.label,
            "dataset": row.planned.dataset,
            "method": None if method is None else dataclasses.asdict(method),
            "missing": row.reason or None,
            "ours": {
                reading: {metric: _mean(values) for metric, values in figures.items()}
                for reading, figures in ours.items()
            },
            "paper": {reading: dict(row.paper(reading)) for reading in _READINGS},
            "difference": {
                reading: {
                    metric: _mean(ours[reading][metric]) - value
                    for metric, value in row.paper(reading).items()
                    if metric in ours[reading]
                }
                for reading in _READINGS
            },
            "cells": [
                {
                    **cell,
                    "figures": {name: value for name, value in cell["figures"].items() if name != "scores"},
                }
                for cell in row.cells
            ],
        }

    def notes(self) -> list[str]:
        """Return what a reader must know of the paper's own figures and of what is missing."""
        notes = [self.table.note] if self.table.note else []
        shown = {(row.planned.row.method, row.planned.dataset) for row in self.rows}
        for entry in disagreements():
            values = ", ".join(f"{value} in {_tables(tables)}" for value, tables in entry.values.items())
            if (entry.method, entry.dataset) in shown:
                title = load_datasets()[entry.dataset].title
                notes.append(
                    f"the paper disagrees with itself on {entry.label}, {title}, {entry.reading} "
                    f"{HEADINGS[entry.metric]}: {values}; this is table {self.table.number}"
                )
        notes += self._prose_notes()
        missing: dict[str, dict[str, None]] = {}
        for row in self.rows:
            if row.reason:
                title = load_datasets()[row.planned.dataset].title
                missing.setdefault(f"not run, {row.reason}", {})[f"{row.planned.row.label} on {title}"] = None
            for cell in row.cells:
                for path, why in cell["figures"]["reasons"].items():
                    reading, _, metric = path.partition(".")
                    if reading in _READINGS and metric in HEADINGS:
                        name = f"{row.planned.row.label}, {reading} {HEADINGS[metric]}"
                        missing.setdefault(f"missing, {why}", {})[name] = None
        return [*notes, *(f"{why}: {', '.join(names)}" for why, names in missing.items())]

    def _prose_notes(self) -> Iterator[str]:
        for row in self.rows:
            name, dataset = row.planned.row.name, row.planned.dataset
            for reading, stated in self.table.prose_gains.get(name, {}).get(dataset, {}).items():
                printed = row.planned.row.gains.get(dataset, {}).get(reading, {})
                for metric, gain in stated.items():
                    if printed.get(metric, gain) != gain:
                        yield (
                            f"the paper's prose (section 4.3) has {gain:+.1f} as the gain of "
                            f"{row.planned.row.label} in {HEADINGS[metric]}, its table {printed[metric]:+.1f}"
                        )

    def _blocks(self) -> Iterator[_Block]:
        for dataset in dict.fromkeys(row.planned.dataset for row in self.rows):
            title = load_datasets()[dataset].title
            rows = [row for row in self.rows if row.planned.dataset == dataset]
            for reading in self.table.readings:
                yield _Block(
                    f"{title}, {_READINGS[reading]}",
                    False,
                    [(row.planned.row.label, row.ours(reading), row.paper(reading)) for row in rows],
                )
                gains = [
                    (
                        row.planned.row.label,
                        _gains(row.ours(reading), self._base_of(row).ours(reading)),
                        row.planned.row.gains[dataset][reading],
                    )
                    for row in rows
                    if reading in row.planned.row.gains.get(dataset, {}) and self._base_of(row) is not row
                ]
                if gains:
                    yield _Block(f"{title}, {_READINGS[reading]}: gain over the base", True, gains)

    def _base_of(self, row: ReproducedRow) -> ReproducedRow:
        """Return the row of the same base without alignment; the row itself where that was not asked for."""
        method = row.planned.row.method
        if method is None:
            return row
        plain = dataclasses.replace(method, alignment="none")
        return next(
            (
                other
                for other in self.rows
                if other.planned.row.method == plain and other.planned.dataset == row.planned.dataset
            ),
            row,
        )

    def _write(self, draw: Callable[[list[list[str]]], list[str]], *, heading: str, line: str) -> str:
        parts = [heading.format(f"Table {self.table.number}: {self.table.title}"), ""]
        for block in self._blocks():
            headings = [text for metric in HEADINGS.values() for text in (metric, "paper", "diff.")]
            cells = [["in points" if block.signed else "in %", *headings]]
            for label, ours, paper in block.rows:
                cells.append([label, *_cells(ours, paper, signed=block.signed)])
            parts += [heading.format(block.heading), "", *draw(cells), ""]
        lines = [
            *(f"data: {text}" for text in self.data),
            *(f"NOT THE PAPER'S: {text}" for text in self.departures),
            *(f"protocol: {text}" for text in self.protocol),
            *self.notes(),
        ]
        if len(self.seeds) > 1:
            lines.insert(0, f"our figures: mean (lowest to highest) over the seeds {_joined(self.seeds)}")
        return "\n".join([*parts, *(line.format(text) for text in lines)])


def describe_protocols(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each way in which cells were measured, in the order in which they first appear."""
    lines: dict[str, None] = {}
    for cell in cells:
        fields = {
            name: value
            for name, value in cell["figures"]["protocol"].items()
            if name not in _PER_ROW and value is not None
        }
        seeds = [other["seed"] for other in cells if other["method"]["base"] == cell["method"]["base"]]
        fields["seeds"] = _joined(sorted(set(seeds)))
        fields |= {f"{name} version": version for name, version in cell["versions"].items()}
        lines["; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in fields.items())] = None
    return list(lines)


def _gains(ours: Figures, base: Figures) -> dict[str, list[float]]:
    return {
        metric: [value - before for value, before in zip(values, base[metric], strict=True)]
        for metric, values in ours.items()
        if len(base.get(metric, ())) == len(values)
    }


def _cells(ours: Figures, paper: Mapping[str, float], *, signed: bool) -> Iterator[str]:
    """Give three cells a metric: ours, the paper's, and the difference of what is printed."""
    form = "{:+.1f}" if signed else "{:.1f}"
    for metric in HEADINGS:
        values, printed = ours.get(metric), paper.get(metric)
        if values:
            spread = f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""
            yield form.format(_mean(values)) + spread
        else:
            yield "-"
        yield "-" if printed is None else form.format(printed)
        yield "-" if printed is None or not values else f"{round(_mean(values), 1) - printed:+.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _tables(numbers: Sequence[int]) -> str:
    return f"table{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"


def _joined(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]


def _piped(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|---|{'---:|' * (len(rows[0]) - 1)}", *lines[1:]]
