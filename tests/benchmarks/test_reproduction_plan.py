"""Rows to cells, folders to data sets, and every refusal on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cada_edge.benchmarks.paper import Method
from cada_edge.benchmarks.reproduction_plan import (
    Cell,
    Plan,
    assign_datasets,
    describe_departures,
    make_plan,
    pick_table,
)
from cada_edge.errors import ConfigError
from cada_edge.runtime.datasets import DatasetIndex

EVERYTHING: dict[str, Any] = {
    "datasets": ("mvtec", "visa", "btad"),
    "seeds": (0,),
    "bases": ("revdist", "recontrast", "uniad"),
    "alignments": ("none", "cada", "cada-sigma", "class-aware", "class-predicted"),
}
CADA = Method("revdist", "cada", 1, 2, 0.25, 0.01)


def _plan(table: int, **values: Any) -> Plan:
    return make_plan(pick_table(table), **{**EVERYTHING, **values})


def _index(layout: str, name: str = "data") -> DatasetIndex:
    return DatasetIndex(Path(name), layout, ())


@pytest.mark.parametrize(
    ("table", "rows", "cells"),
    [
        (1, 8, 6),
        (2, 8, 6),
        # Of 14 rows the default stands there three times.
        (3, 14, 12),
        (4, 8, 8),
        (5, 9, 9),
    ],
)
def test_what_a_table_needs_when_everything_is_there(table: int, rows: int, cells: int) -> None:
    plan = _plan(table)
    assert len(plan.rows) == rows
    assert len(plan.cells) == cells
    assert len(_plan(table, seeds=(0, 1, 2)).cells) == 3 * cells


def test_table_3_trains_eight_aligners_on_one_base() -> None:
    methods = [cell.method for cell in _plan(3).cells]
    aligners = {dataclasses.replace(method, top_fraction=0.01) for method in methods} - {
        dataclasses.replace(CADA, alignment="none")
    }
    assert len(aligners) == 8
    assert {method.base for method in methods} == {"revdist"}


def test_tables_share_their_cells() -> None:
    mvtec = [cell for table in (1, 3, 4, 5) for cell in _plan(table).cells if cell.dataset == "mvtec"]
    assert mvtec.count(Cell(CADA, "mvtec", 0)) == 4
    # 6 of Table 1, 10 more of Table 3, 2 of Table 4, 1 of Table 5.
    assert len(set(mvtec)) == 19


def test_cells_come_base_by_base() -> None:
    order = [(cell.method.base, cell.seed) for cell in _plan(1, seeds=(3, 1)).cells]
    assert order == [
        *2 * [("uniad", 1)], *2 * [("uniad", 3)], *2 * [("revdist", 1)], *2 * [("revdist", 3)],
        *2 * [("recontrast", 1)], *2 * [("recontrast", 3)],
    ]  # fmt: skip


def test_rows_that_cannot_be_run_say_why() -> None:
    plan = _plan(1, bases=("revdist",))
    assert {planned.row.name: planned.reason for planned in plan.rows} == {
        "draem": "a method of others: the paper's figures only",
        "patchcore": "a method of others: the paper's figures only",
        "uniad": "the base method uniad is not built yet",
        "revdist": "",
        "recontrast": "the base method recontrast is not built yet",
        "uniad+cada": "the base method uniad is not built yet",
        "revdist+cada": "",
        "recontrast+cada": "the base method recontrast is not built yet",
    }
    assert {cell.method.base for cell in plan.cells} == {"revdist"}
    plan = _plan(5, datasets=("mvtec", "btad"), alignments=("none", "cada"))
    assert [(planned.dataset, planned.row.name, planned.reason) for planned in plan.rows] == [
        ("mvtec", "revdist", ""),
        ("mvtec", "revdist+cada", ""),
        ("mvtec", "revdist+cada-sigma", "the alignment cada-sigma is not built yet"),
        ("visa", "revdist", "no folder of VisA was given with --data"),
        ("visa", "revdist+cada", "no folder of VisA was given with --data"),
        ("visa", "revdist+cada-sigma", "the alignment cada-sigma is not built yet"),
        ("btad", "revdist", ""),
        ("btad", "revdist+cada", ""),
        ("btad", "revdist+cada-sigma", "the alignment cada-sigma is not built yet"),
    ]


def test_some_rows_alone() -> None:
    assert [planned.row.name for planned in _plan(3, only_rows=["top-max", "revdist"]).rows] == [
        "revdist",
        "top-max",
    ]
    names = [planned.row.name for planned in _plan(1, only_bases=["recontrast"]).rows]
    assert names == ["recontrast", "recontrast+cada"]


def test_what_a_table_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"table 6 came; wanted one of 1, 2, 3, 4, 5\. Pass --table 1"):
        pick_table(6)
    with pytest.raises(ConfigError, match=r"row 'top-3%' came; wanted some of table 3's: revdist, .*Did you"):
        _plan(3, only_rows=["top-3%"])
    with pytest.raises(ConfigError, match=r"base 'uniad' came; wanted some of table 3's: revdist\."):
        _plan(3, only_bases=["uniad"])
    for seeds, shown in (((), "none"), ((1, 1), "1, 1")):
        with pytest.raises(ConfigError, match=rf"the seeds {shown} came; wanted at least one, each once"):
            _plan(3, seeds=seeds)


def test_folders_are_told_by_their_layout() -> None:
    indexes = [_index("btad"), _index("visa-mvtec"), _index("mvtec")]
    found = assign_datasets(pick_table(5), indexes)
    assert {name: index.layout for name, index in found.items()} == {
        "btad": "btad",
        "visa": "visa-mvtec",
        "mvtec": "mvtec",
    }
    assert set(assign_datasets(pick_table(2), [_index("visa")])) == {"visa"}


@pytest.mark.parametrize(
    ("table", "layouts", "wanted"),
    [
        (
            1,
            ["visa"],
            r"data0 came, which is VisA by its layout; table 1 has the data sets MVTec AD \(mvtec\)",
        ),
        (
            2,
            ["mvtec"],
            r"which is MVTec AD by its layout; table 2 has the data sets VisA \(visa or visa-mvtec",
        ),
        (4, ["mvtec", "btad"], r"data1 came, which is BTAD \(noisy\) by its layout; table 4 has"),
        (5, ["folder"], r"data0 came, which is the layout folder; table 5 has .* Pass those with --data"),
        (5, ["visa", "visa-mvtec"], r"data0 and data1 came, both VisA by their layout; wanted one folder"),
    ],
)
def test_a_data_set_that_the_table_does_not_have_is_refused(
    table: int, layouts: list[str], wanted: str
) -> None:
    indexes = [_index(layout, f"data{number}") for number, layout in enumerate(layouts)]
    with pytest.raises(ConfigError, match=wanted):
        assign_datasets(pick_table(table), indexes)


def test_every_departure_is_named() -> None:
    paper = {"iterations": 5000, "size": 256, "aligner": {"beta": 0.1, "hidden": 256}}
    used = {"iterations": 3, "size": 256, "aligner": {"beta": 0.1, "hidden": 8}}
    assert describe_departures(used, paper) == [
        "iterations 3 (the paper's recipe: 5000)",
        "aligner.hidden 8 (the paper's recipe: 256)",
    ]
    assert describe_departures(paper, paper) == []
