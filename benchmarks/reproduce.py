"""Reproduce a table of the paper: train what it needs, evaluate, and set our figures beside the paper's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cada_edge.benchmarks.paper import load_datasets
from cada_edge.benchmarks.reproduction_cells import (
    Settings,
    cell_config,
    cell_file,
    list_departures,
    read_cell,
    run_cells,
)
from cada_edge.benchmarks.reproduction_figures import write_figures
from cada_edge.benchmarks.reproduction_plan import Cell, Plan, assign_datasets, make_plan, pick_table
from cada_edge.benchmarks.reproduction_report import ReproducedRow, Reproduction, describe_protocols
from cada_edge.errors import TrainingError
from cada_edge.files import write_atomic
from cada_edge.runtime.datasets import DatasetIndex, index_dataset
from cada_edge.trainer.config import ALIGNMENTS, BASES

__all__ = ["reproduce"]


def reproduce(
    table: int,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    rows: Sequence[str] = (),
    bases: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int, float], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Reproduction:
    """Run every row of a table that can be run, with the recipe 'paper', and compare.

    What is finished is kept in the output folder and is not run again, so a run that was stopped goes on
    where it was; tables share what they have in common.

    Args:
        table: Its number.
        data: Folders of the table's data sets; rows on a data set that is not among them are not run.
        out: Folder of all runs; ``table-<n>.json``, ``table-<n>.md`` and its figures in the manner of the
            paper's Fig. 5 and Fig. 6, ``table-<n>-figures/``, are written there.
        rows: Names of rows; none for all.
        bases: Base methods; none for all.
        seeds: Our figure is the mean over them.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        overrides: Configuration values that stand in for the recipe's; the result names each of them.
        progress: Called with the stage's name, what is done, how many there are, and the loss.
        announce: Called with a line as a cell begins or ends.

    Raises:
        ConfigError: No such table, row, base or configuration value, or a data set that the table does not
            have.
        DatasetError: A data set that cannot be used.
        OutputError: The output folder cannot be written.
    """
    chosen = pick_table(table)
    indexes = assign_datasets(chosen, [index_dataset(folder) for folder in data])
    plan = make_plan(
        chosen,
        datasets=indexes,
        seeds=seeds,
        bases=BASES,
        alignments=ALIGNMENTS,
        only_rows=rows,
        only_bases=bases,
    )
    settings = Settings(Path(out), dict(overrides or {}), device)
    for cell in plan.cells:
        # Before hours of training: an impossible value of any row.
        cell_config(cell.method, cell.seed, settings)
    failures = _run(plan, indexes, settings, progress, announce or (lambda line: None))
    result = _collect(plan, indexes, settings, failures, tuple(seeds))
    stem = settings.out / f"table-{table}"
    write_atomic(stem.with_suffix(".json"), (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    figures = write_figures(plan, indexes, settings)
    write_atomic(stem.with_suffix(".md"), (_with_pictures(result, figures) + "\n").encode())
    return result


def _with_pictures(result: Reproduction, figures: Sequence[Path]) -> str:
    if not figures:
        return result.to_markdown()
    about = (
        "Figures in the manner of the paper's Fig. 5 (each image's score, kind by kind; the kinds stand in "
        "the order of their good images' median without alignment) and Fig. 6 (the first defective and the "
        "first good test image of each kind; 0 and 1 of the colours are, without alignment, mean and maximum "
        "of the good images shown, averaged, and with CADA 0 and 1 of the aligned map):"
    )
    pictures = [f"![{path.stem}]({path.parent.name}/{path.name})" for path in figures]
    return "\n\n".join([result.to_markdown(), about, *pictures])


def _run(
    plan: Plan,
    indexes: Mapping[str, DatasetIndex],
    settings: Settings,
    progress: Callable[[str, int, int, float], None] | None,
    announce: Callable[[str], None],
) -> dict[Cell, str]:
    """Run the cells, one base after the other; a training that diverges costs its own rows only."""
    failures = {}
    groups = itertools.groupby(plan.cells, key=lambda cell: (cell.dataset, cell.method.base, cell.seed))
    for (dataset, base, seed), members in groups:
        cells = list(members)
        announce(f"{base} on {load_datasets()[dataset].title}, seed {seed}: {len(cells)} cells")
        try:
            for cell in run_cells(cells, indexes[dataset], settings, progress=progress):
                announce(f"done: {cell_file(cell, indexes[dataset], settings)}")
        except TrainingError as error:
            for cell in cells:
                if read_cell(cell_file(cell, indexes[dataset], settings)) is None:
                    failures[cell] = f"seed {seed}: {error}"
    return failures


def _collect(
    plan: Plan,
    indexes: Mapping[str, DatasetIndex],
    settings: Settings,
    failures: Mapping[Cell, str],
    seeds: tuple[int, ...],
) -> Reproduction:
    rows = []
    for planned in plan.rows:
        found = [read_cell(cell_file(cell, indexes[cell.dataset], settings)) for cell in planned.cells]
        failed = "; ".join(failures[cell] for cell in planned.cells if cell in failures)
        cells = tuple(content for content in found if content is not None)
        rows.append(ReproducedRow(planned, cells, planned.reason or failed))
    departures: dict[str, None] = {}
    for cell in plan.cells:
        for departure in list_departures(cell.method, settings):
            departures[f"{cell.method.base}: {departure}"] = None
    return Reproduction(
        table=plan.table,
        rows=tuple(rows),
        seeds=seeds,
        data=tuple(_describe_data(name, index) for name, index in indexes.items()),
        departures=tuple(departures),
        protocol=tuple(describe_protocols([cell for row in rows for cell in row.cells])),
    )


def _describe_data(name: str, index: DatasetIndex) -> str:
    """Set what a folder holds beside what the paper says of the data set."""
    facts = load_datasets()[name]
    text = (
        f"{facts.title} from {index.root} (layout {index.layout}): {len(index.categories)} kinds, "
        f"{len(index.train)} training and {len(index.test)} test images"
    )
    wanted = [facts.categories, facts.training_images, facts.test_images]
    found = [len(index.categories), len(index.train), len(index.test)]
    if all(want in (None, have) for want, have in zip(wanted, found, strict=True)):
        return text + (", as in the paper" if facts.training_images else "")
    images = f", {facts.training_images} and {facts.test_images} images" if facts.training_images else ""
    return f"{text}; NOT THE PAPER'S, which has {facts.categories} kinds{images}"
