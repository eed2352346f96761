from __future__ import annotations

import pytest

from cada_edge.benchmarks.reproduction_plan import make_plan, pick_table
from cada_edge.trainer.config import ALIGNMENTS, BASES

pytest.importorskip("torch", reason="cells train: pip install 'cada-edge[train]'")

from cada_edge.benchmarks.reproduction_figures import _label


@pytest.mark.parametrize(
    ("table", "row", "label"),
    [
        (1, "uniad+cada", "MVTec AD, UniAD + CADA, seed 4"),
        (3, "revdist", "MVTec AD, RevDist, seed 4"),
        (3, "1-linear", "MVTec AD, RevDist + CADA, 1 linear, seed 4"),
        (5, "revdist+cada-sigma", "MVTec AD, RevDist + CADA (u, sigma), seed 4"),
    ],
)
def test_a_figure_is_named_by_its_row(table: int, row: str, label: str) -> None:
    plan = make_plan(
        pick_table(table), datasets=["mvtec"], seeds=[4], bases=BASES, alignments=ALIGNMENTS, only_rows=[row]
    )
    (cell,) = plan.cells
    assert _label(plan, cell) == label
