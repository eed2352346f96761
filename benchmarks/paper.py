"""The paper's tables, as its text prints them: what a reproduction is held against.

The figures lie in ``paper_tables.json``, typed from the tables themselves. Where two tables disagree, each
keeps its own value and `disagreements` names both; a comparison says which table it uses.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "HEADINGS",
    "Disagreement",
    "Method",
    "PaperDataset",
    "PaperRow",
    "PaperTable",
    "disagreements",
    "load_datasets",
    "load_tables",
]

HEADINGS = {"i_auroc": "I-AUROC", "i_ap": "I-AP", "p_auroc": "P-AUROC", "p_ap": "P-AP"}
"""The paper's metrics in the order of its tables, with their headings."""

_FILE = Path(__file__).with_name("paper_tables.json")

Cells = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Data set -> reading ('averaged', 'mixed') -> metric -> percent, or points; only what is printed."""


@dataclass(frozen=True)
class PaperDataset:
    """A data set as the paper describes it (section 4.1)."""

    name: str
    """'mvtec', 'visa' or 'btad'."""
    title: str
    """For people."""
    layouts: tuple[str, ...]
    """Of `cada_edge.runtime.datasets.LAYOUTS`: how it may lie on disk."""
    categories: int
    """Kinds of parts."""
    training_images: int | None
    """All normal; None where the paper gives no split."""
    test_images: int | None
    """Normal and anomalous; None where the paper gives no split."""


@dataclass(frozen=True)
class Method:
    """What a row trains and how it scores; equal methods are one run, whichever tables ask for it."""

    base: str
    """Base method."""
    alignment: str
    """Alignment variant."""
    convolutions: int
    """Of the regressor (Table 3)."""
    linears: int
    """Of the regressor (Table 3)."""
    dropout: float
    """Of the regressor, 0-1 (Table 3)."""
    top_fraction: float
    """Share of the highest pixels whose mean is the image's score, 0-1; 0 is the maximum (Table 3)."""


@dataclass(frozen=True)
class PaperRow:
    """One method in one table."""

    name: str
    """Unique in its table; what --rows takes."""
    label: str
    """For people."""
    method: Method | None
    """None for methods that are not ours to run."""
    figures: Cells
    """In percent."""
    gains: Cells
    """The differences to the base method that the table prints, in points."""


@dataclass(frozen=True)
class PaperTable:
    """One table."""

    number: int
    """1-5."""
    title: str
    """Its caption, shortened."""
    note: str
    """What is odd about it; empty for most."""
    datasets: tuple[str, ...]
    """Names of its data sets."""
    readings: tuple[str, ...]
    """'averaged' (model-unified), 'mixed' (absolute-unified)."""
    rows: tuple[PaperRow, ...]
    """In the order of the paper."""
    prose_gains: Mapping[str, Cells]
    """Row -> the differences that section 4.3 states of it, in points."""


@dataclass(frozen=True)
class Disagreement:
    """One figure that the paper prints twice with different values."""

    method: Method
    """Whose figure."""
    label: str
    """The method for people, as its first table names it."""
    dataset: str
    """On which data set."""
    reading: str
    """'averaged' or 'mixed'."""
    metric: str
    """One of `HEADINGS`."""
    values: Mapping[float, tuple[int, ...]]
    """Value in percent -> the tables that print it."""


@functools.cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content


@functools.cache
def load_datasets() -> dict[str, PaperDataset]:
    """Return the paper's data sets by name."""
    return {
        name: PaperDataset(name=name, **{**facts, "layouts": tuple(facts["layouts"])})
        for name, facts in _content()["datasets"].items()
    }


@functools.cache
def load_tables() -> dict[int, PaperTable]:
    """Return the paper's tables by number."""
    return {
        int(number): PaperTable(
            number=int(number),
            title=table["title"],
            note=table.get("note", ""),
            datasets=tuple(table["datasets"]),
            readings=tuple(table["readings"]),
            rows=tuple(_row(row) for row in table["rows"]),
            prose_gains={name: _cells(cells) for name, cells in table.get("prose_gains", {}).items()},
        )
        for number, table in _content()["tables"].items()
    }


def _row(row: dict[str, Any]) -> PaperRow:
    method = Method(**{**_content()["default_method"], **row["method"]}) if "method" in row else None
    return PaperRow(row["name"], row["label"], method, _cells(row["figures"]), _cells(row.get("gains", {})))


def _cells(cells: dict[str, dict[str, list[float | None]]]) -> Cells:
    return {
        dataset: {
            reading: {
                metric: value
                for metric, value in zip(_content()["metrics"], values, strict=True)
                if value is not None
            }
            for reading, values in readings.items()
        }
        for dataset, readings in cells.items()
    }


@functools.cache
def disagreements() -> tuple[Disagreement, ...]:
    """Return every figure that two tables print with different values, found by comparing them all."""
    printed: dict[tuple[Method, str, str, str], dict[float, list[int]]] = {}
    labels: dict[Method, str] = {}
    for table in load_tables().values():
        for row in table.rows:
            if row.method is None:
                continue
            labels.setdefault(row.method, row.label)
            for dataset, readings in row.figures.items():
                for reading, figures in readings.items():
                    for metric, value in figures.items():
                        tables = printed.setdefault((row.method, dataset, reading, metric), {})
                        # Table 3 prints its default row three times.
                        if table.number not in tables.setdefault(value, []):
                            tables[value].append(table.number)
    return tuple(
        Disagreement(
            *(key[0], labels[key[0]], *key[1:]),
            values={value: tuple(tables) for value, tables in found.items()},
        )
        for key, found in printed.items()
        if len(found) > 1
    )
