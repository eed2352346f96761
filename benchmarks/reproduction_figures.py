"""Figures of a reproduction, in the manner of the paper's Fig. 5 and Fig. 6, from its finished cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.benchmarks.examples import make_example
from cada_edge.benchmarks.heat_maps import draw_examples, range_of_examples
from cada_edge.benchmarks.paper import load_datasets
from cada_edge.benchmarks.plots import draw_scores, order_kinds, to_png
from cada_edge.benchmarks.reproduction_cells import Settings, cell_file, read_cell, read_example_maps
from cada_edge.benchmarks.reproduction_plan import Cell, Plan
from cada_edge.files import write_atomic
from cada_edge.runtime.datasets import DatasetIndex

__all__ = ["write_figures"]

_log = logging.getLogger(__name__)

_DRAWN = ("none", "cada", "class-aware")
"""Alignments whose scores are drawn, each where a row of the table has it."""


def write_figures(plan: Plan, indexes: Mapping[str, DatasetIndex], settings: Settings) -> list[Path]:
    """Draw the scores of each kind before and after alignment, and heat-maps, for each base and seed.

    A figure takes an alignment's first finished row in the table's order.

    Args:
        plan: The table's cells.
        indexes: Name of a data set -> its images.
        settings: As the cells were run with; files go to ``table-<n>-figures/`` in its folder.

    Returns:
        ``<data set>-<base>-seed<n>-scores-<alignment>.png`` for each alignment, and ``-maps.png`` where there
        are rows without alignment and with cada.

    Raises:
        OutputError: The folder or the disk does not take a file.
        ImageReadError: An image or its mask cannot be read any more.
    """
    groups: dict[tuple[str, str, int], dict[str, Cell]] = {}
    for cell in plan.cells:
        if read_cell(cell_file(cell, indexes[cell.dataset], settings)) is not None:
            key = (cell.dataset, cell.method.base, cell.seed)
            groups.setdefault(key, {}).setdefault(cell.method.alignment, cell)
    folder = settings.out / f"table-{plan.table.number}-figures"
    written: list[Path] = []
    for (dataset, base, seed), cells in groups.items():
        stem = f"{dataset}-{base}-seed{seed}"
        labels = {name: _label(plan, cell) for name, cell in cells.items()}
        written += _write_scores(folder, stem, cells, labels, indexes[dataset], settings)
        if {"none", "cada"} <= set(cells):
            written += _write_maps(folder, stem, cells, labels["none"], indexes[dataset], settings)
    return written


def _label(plan: Plan, cell: Cell) -> str:
    """Name a cell as its first row in the table does, with data set and seed."""
    label = next(planned.row.label for planned in plan.rows if cell in planned.cells)
    if label.startswith("+"):
        # Table 3 names the base in its first row alone.
        rows = plan.table.rows
        bases = {row.method.base: row.label for row in rows if row.method and row.method.alignment == "none"}
        label = f"{bases.get(cell.method.base, cell.method.base)} {label}"
    return f"{load_datasets()[cell.dataset].title}, {label}, seed {cell.seed}"


def _write_scores(
    folder: Path,
    stem: str,
    cells: Mapping[str, Cell],
    labels: Mapping[str, str],
    index: DatasetIndex,
    settings: Settings,
) -> list[Path]:
    drawn = [name for name in _DRAWN if name in cells]
    scores = {name: _scores(_content(cells[name], index, settings), index) for name in drawn}
    categories = [sample.category for sample in index.test]
    anomalous = np.array([sample.anomalous for sample in index.test])
    if not drawn:
        return []
    kinds = order_kinds(scores[drawn[0]], categories, anomalous)
    return [
        write_atomic(
            folder / f"{stem}-scores-{name}.png",
            to_png(
                draw_scores(values, categories, anomalous, kinds=kinds, threshold=None, title=labels[name])
            ),
        )
        for name, values in scores.items()
    ]


def _write_maps(
    folder: Path,
    stem: str,
    cells: Mapping[str, Cell],
    label: str,
    index: DatasetIndex,
    settings: Settings,
) -> list[Path]:
    maps = {name: read_example_maps(cells[name], index, settings) for name in ("none", "cada")}
    scores = {name: _scores(_content(cells[name], index, settings), index) for name in maps}
    examples = [
        make_example(
            sample,
            maps["none"][sample.relative].shape[0],
            {name: found[sample.relative] for name, found in maps.items()},
            {name: float(values[row]) for name, values in scores.items()},
        )
        for row, sample in enumerate(index.test)
        if all(sample.relative in found for found in maps.values())
    ]
    if not examples:
        # Cells of a version that kept no maps.
        _log.warning("%s: no heat-maps were kept; remove its top-*.json files to have them drawn", stem)
        return []
    drawing = draw_examples(examples, range_of_examples(examples), title=label)
    return [write_atomic(folder / f"{stem}-maps.png", to_png(drawing))]


def _content(cell: Cell, index: DatasetIndex, settings: Settings) -> dict[str, Any]:
    content = read_cell(cell_file(cell, index, settings))
    assert content is not None
    return content


def _scores(content: Mapping[str, Any], index: DatasetIndex) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the images' scores in the order of the index."""
    found: Mapping[str, float] = content["figures"]["scores"]
    return np.array([found[sample.relative] for sample in index.test], np.float64)
