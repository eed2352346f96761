"""What a table of the paper needs run: its rows as cells of method, data set and seed, or why not.

Which methods there are is asked of the trainer's configuration when the plan is made, not written down here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cada_edge.benchmarks.paper import Method, PaperRow, PaperTable, load_datasets, load_tables
from cada_edge.errors import ConfigError
from cada_edge.runtime.datasets import DatasetIndex

__all__ = [
    "Cell",
    "Plan",
    "PlannedRow",
    "assign_datasets",
    "describe_departures",
    "make_plan",
    "pick_table",
]


@dataclass(frozen=True)
class Cell:
    """One trained and evaluated model; what several rows or tables ask for is one cell."""

    method: Method
    """What to train and how to score."""
    dataset: str
    """On which of the paper's data sets."""
    seed: int
    """Of the training."""


@dataclass(frozen=True)
class PlannedRow:
    """One row of the table on one of its data sets."""

    row: PaperRow
    """As the paper prints it."""
    dataset: str
    """On which of the table's data sets."""
    cells: tuple[Cell, ...]
    """One per seed; none where the row cannot be run."""
    reason: str
    """Why it cannot be run; empty where it can."""


@dataclass(frozen=True)
class Plan:
    """A table's rows on its data sets, in the paper's order."""

    table: PaperTable
    """Which."""
    rows: tuple[PlannedRow, ...]
    """Those that were asked for."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell once, in the order in which they are run: data set by data set, base by base."""
        wanted = dict.fromkeys(cell for planned in self.rows for cell in planned.cells)
        datasets, bases = list(self.table.datasets), list(dict.fromkeys(cell.method.base for cell in wanted))
        return tuple(
            sorted(
                wanted,
                key=lambda cell: (datasets.index(cell.dataset), bases.index(cell.method.base), cell.seed),
            )
        )


def pick_table(number: int) -> PaperTable:
    """Return a table by its number.

    Raises:
        ConfigError: The paper has no such table.
    """
    tables = load_tables()
    if number not in tables:
        raise ConfigError(
            f"table {number} came; wanted one of {', '.join(map(str, tables))}. "
            "Pass --table 1 for the main results on MVTec AD."
        )
    return tables[number]


def assign_datasets(table: PaperTable, indexes: Sequence[DatasetIndex]) -> dict[str, DatasetIndex]:
    """Tell by its layout which of the paper's data sets each folder holds.

    Args:
        table: Which data sets it has is fixed.
        indexes: The folders.

    Returns:
        Data set -> its index.

    Raises:
        ConfigError: A folder that is none of the table's data sets, or two of one.
    """
    facts = load_datasets()
    wanted = ", ".join(f"{facts[name].title} ({' or '.join(facts[name].layouts)})" for name in table.datasets)
    found: dict[str, DatasetIndex] = {}
    for index in indexes:
        name = next((name for name, fact in facts.items() if index.layout in fact.layouts), None)
        if name is None or name not in table.datasets:
            what = f"the layout {index.layout}" if name is None else f"{facts[name].title} by its layout"
            raise ConfigError(
                f"{index.root} came, which is {what}; table {table.number} has the data sets {wanted}. "
                "Pass those with --data, or another table."
            )
        if name in found:
            raise ConfigError(
                f"{found[name].root} and {index.root} came, both {facts[name].title} by their layout; "
                f"wanted one folder for each of {wanted}. Leave one out."
            )
        found[name] = index
    return found


def make_plan(
    table: PaperTable,
    *,
    datasets: Collection[str],
    seeds: Sequence[int],
    bases: Collection[str],
    alignments: Collection[str],
    only_rows: Sequence[str] = (),
    only_bases: Sequence[str] = (),
) -> Plan:
    """Turn a table's rows into cells.

    Args:
        table: Which.
        datasets: Names of the data sets at hand.
        seeds: At least one.
        bases: Base methods that there are.
        alignments: Alignment variants that there are.
        only_rows: Names of rows; none for all.
        only_bases: Base methods whose rows are wanted; none for all.

    Raises:
        ConfigError: No seed or one twice, or a row or base that the table does not have.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"the seeds {', '.join(map(str, seeds)) or 'none'} came; wanted at least one, each once. "
            "Pass --seeds 0,1,2."
        )
    own_bases = list(dict.fromkeys(row.method.base for row in table.rows if row.method is not None))
    _require_known("row", only_rows, [row.name for row in table.rows], table)
    _require_known("base", only_bases, own_bases, table)
    planned = []
    for dataset in table.datasets:
        for row in table.rows:
            if only_rows and row.name not in only_rows:
                continue
            if only_bases and (row.method is None or row.method.base not in only_bases):
                continue
            reason = _why_not(row, dataset, datasets, bases, alignments)
            cells: tuple[Cell, ...] = ()
            if not reason and row.method is not None:
                cells = tuple(Cell(row.method, dataset, seed) for seed in seeds)
            planned.append(PlannedRow(row, dataset, cells, reason))
    return Plan(table, tuple(planned))


def _why_not(
    row: PaperRow,
    dataset: str,
    datasets: Collection[str],
    bases: Collection[str],
    alignments: Collection[str],
) -> str:
    if row.method is None:
        return "a method of others: the paper's figures only"
    if row.method.base not in bases:
        return f"the base method {row.method.base} is not built yet"
    if row.method.alignment not in alignments:
        return f"the alignment {row.method.alignment} is not built yet"
    if dataset not in datasets:
        return f"no folder of {load_datasets()[dataset].title} was given with --data"
    return ""


def _require_known(what: str, names: Sequence[str], known: Sequence[str], table: PaperTable) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"{what} {name!r} came; wanted some of table {table.number}'s: {', '.join(known)}.{hint}"
            )


def describe_departures(used: Mapping[str, object], paper: Mapping[str, object]) -> list[str]:
    """Name every value that is not the paper's, as 'iterations 3 (the paper's recipe: 5000)'.

    Args:
        used: Configuration values by name, nested ones as mappings.
        paper: The same names under the paper's recipe.
    """
    departures = []
    for name, value in used.items():
        wanted = paper.get(name)
        if isinstance(value, Mapping) and isinstance(wanted, Mapping):
            departures += [f"{name}.{inner}" for inner in describe_departures(value, wanted)]
        elif value != wanted:
            departures.append(f"{name} {value} (the paper's recipe: {wanted})")
    return departures
