"""The comparison as it is printed, from figures made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cada_edge.benchmarks.paper import Method
from cada_edge.benchmarks.reproduction_plan import make_plan, pick_table
from cada_edge.benchmarks.reproduction_report import ReproducedRow, Reproduction, describe_protocols

BASES = ("revdist", "recontrast")


def _cell(method: Method, seed: int, mixed: list[float | None], **changes: Any) -> dict[str, Any]:
    figures = dict(zip(("i_auroc", "i_ap", "p_auroc", "p_ap"), mixed, strict=True))
    return {
        "method": {"base": method.base},
        "seed": seed,
        "versions": {"torch": "2.5"},
        "figures": {
            "mixed": figures,
            "averaged": figures,
            "reasons": {},
            "protocol": {"images": "some-resize", "seed": seed, "alignment": "x", "threshold": None},
            "scores": {"a.png": 1.0},
        },
        **changes,
    }


def _reproduce(
    table: int, ours: dict[str, list[list[float | None]]], *, reason: str = "", **plan: Any
) -> Reproduction:
    """Give rows figures, a list for each seed."""
    made = make_plan(
        pick_table(table),
        **{
            "datasets": ["mvtec"],
            "seeds": [0, 1],
            "bases": BASES,
            "alignments": ["none", "cada"],
            **plan,
        },
    )
    rows = []
    for planned in made.rows:
        method = planned.row.method
        cells: tuple[dict[str, Any], ...] = ()
        if method is not None and planned.cells:
            cells = tuple(
                _cell(method, seed, mixed) for seed, mixed in enumerate(ours.get(planned.row.name, []))
            )
        rows.append(ReproducedRow(planned, cells, planned.reason or ("" if cells else reason)))
    return Reproduction(
        table=made.table,
        rows=tuple(rows),
        seeds=tuple(plan.get("seeds", (0, 1))),
        data=("MVTec AD from somewhere",),
        departures=("revdist: iterations 3 (the paper's recipe: 5000)",),
        protocol=tuple(describe_protocols([cell for row in rows for cell in row.cells])),
    )


def _line(text: str, label: str, *, under: str) -> list[str]:
    block = text.split(under, 1)[1].split("\n\n")[1]
    (found,) = (line for line in block.splitlines() if line.startswith(label + "  "))
    return [part for part in found.removeprefix(label).split("  ") if part]


def test_a_row_shows_ours_the_papers_and_the_difference_of_what_is_printed() -> None:
    result = _reproduce(1, {"revdist": [[84.76, 94.4, 95.0, None]]}, seeds=[0])
    cells = _line(result.to_text(), "RevDist", under="mixed (absolute-unified)")
    # 84.76 prints as 84.8: the difference to 85.0 prints as -0.2, not as -0.24 rounded.
    assert [cell.strip() for cell in cells] == [
        "84.8", "85.0", "-0.2", "94.4", "94.4", "+0.0", "95.0", "94.5", "+0.5", "-", "49.0", "-",
    ]  # fmt: skip


def test_several_seeds_show_mean_and_range() -> None:
    result = _reproduce(1, {"revdist": [[84.0, 94.0, 94.0, 49.0], [86.0, 94.0, 95.0, 50.0]]})
    text = result.to_text()
    cells = [cell.strip() for cell in _line(text, "RevDist", under="mixed (absolute-unified)")]
    assert cells[:6] == ["85.0 (84.0 to 86.0)", "85.0", "+0.0", "94.0 (94.0 to 94.0)", "94.4", "-0.4"]
    assert "our figures: mean (lowest to highest) over the seeds 0, 1" in text.splitlines()
    assert "over the seeds" not in _reproduce(1, {"revdist": [[84.0] * 4]}, seeds=[0]).to_text()


def test_gains_are_compared_with_the_papers() -> None:
    ours: dict[str, list[list[float | None]]] = {
        "revdist": [[85.0, 94.0, 94.0, 49.0]],
        "revdist+cada": [[97.0, 99.0, 93.5, 49.0]],
    }
    text = _reproduce(1, ours, seeds=[0]).to_text()
    cells = [cell.strip() for cell in _line(text, "RevDist + CADA", under="gain over the base")]
    assert cells == [
        "+12.0", "+13.0", "-1.0", "+5.0", "+4.9", "+0.1", "-0.5", "+1.1", "-1.6", "+0.0", "+4.1", "-4.1",
    ]  # fmt: skip
    # Without the base's row there is nothing to compare with.
    alone = _reproduce(1, ours, seeds=[0], only_rows=["revdist+cada"])
    assert "gain over the base" not in alone.to_text()


def test_what_a_reader_must_know_stands_below() -> None:
    result = _reproduce(1, {"revdist": [[84.0, 94.0, None, None]]}, seeds=[0], reason="seed 0: it diverged")
    lines = result.to_text().splitlines()
    assert "data: MVTec AD from somewhere" in lines
    assert "NOT THE PAPER'S: revdist: iterations 3 (the paper's recipe: 5000)" in lines
    assert "protocol: images: some-resize; seeds: 0; torch version: 2.5" in lines
    assert (
        "the paper disagrees with itself on RevDist + CADA, MVTec AD, mixed P-AP: 53.1 in tables 1 and 3, "
        "54.7 in tables 4 and 5; this is table 1"
    ) in lines
    assert (
        "the paper's prose (section 4.3) has +7.9 as the gain of UniAD + CADA in I-AUROC, its table +4.3"
    ) in lines
    assert (
        "not run, a method of others: the paper's figures only: DRAEM on MVTec AD, PatchCore on MVTec AD"
    ) in lines
    assert (
        "not run, the base method uniad is not built yet: UniAD on MVTec AD, UniAD + CADA on MVTec AD"
        in lines
    )
    assert (
        "not run, seed 0: it diverged: ReContrast on MVTec AD, RevDist + CADA on MVTec AD, "
        "ReContrast + CADA on MVTec AD"
    ) in lines
    assert result.failed == ["recontrast on mvtec", "revdist+cada on mvtec", "recontrast+cada on mvtec"]


def test_missing_metrics_say_why() -> None:
    result = _reproduce(1, {"revdist": [[84.0, 94.0, None, None]]}, seeds=[0])
    for cell in result.rows[3].cells:
        cell["figures"]["reasons"] = {"mixed.p_auroc": "no masks", "per_kind.a.p_auroc": "no masks"}
    assert "missing, no masks: RevDist, mixed P-AUROC" in result.to_text().splitlines()


def test_the_table_without_cells_says_so() -> None:
    lines = _reproduce(2, {}, datasets=["visa"]).to_text().splitlines()
    assert (
        "The text we have lacks this table's cells: the figures are those of its prose (section 4.3)."
        in lines
    )
    assert (
        "the paper disagrees with itself on RevDist, VisA, mixed I-AUROC: 83.9 in table 2, "
        "83.5 in tables 4 and 5; this is table 2"
    ) in lines


def test_markdown_has_a_table_for_each_heading() -> None:
    lines = _reproduce(1, {"revdist": [[84.0, 94.0, 95.0, 49.0]]}, seeds=[0]).to_markdown().splitlines()
    assert lines[0] == "## Table 1: Anomaly detection and localization performance on MVTec AD"
    assert lines.count("|---|" + "---:|" * 12) == 3
    row = "| RevDist | 84.0 | 85.0 | -1.0 | 94.0 | 94.4 | -0.4 | 95.0 | 94.5 | +0.5 | 49.0 | 49.0 | +0.0 |"
    assert row in lines
    assert "- NOT THE PAPER'S: revdist: iterations 3 (the paper's recipe: 5000)" in lines


def test_plain_values() -> None:
    values = _reproduce(1, {"revdist": [[84.0, 94.0, 94.0, 49.0], [87.0, 94.0, 95.0, None]]}).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["table"], values["seeds"]) == (1, [0, 1])
    (row,) = (row for row in values["rows"] if row["row"] == "revdist")
    assert row["ours"]["mixed"] == {"i_auroc": 85.5, "i_ap": 94.0, "p_auroc": 94.5, "p_ap": 49.0}
    assert row["difference"]["mixed"] == pytest.approx(
        {"i_auroc": 0.5, "i_ap": -0.4, "p_auroc": 0, "p_ap": 0}
    )
    assert row["method"]["base"] == "revdist"
    assert [cell["seed"] for cell in row["cells"]] == [0, 1]
    assert "scores" not in row["cells"][0]["figures"]
    (other,) = (row for row in values["rows"] if row["row"] == "draem")
    assert (other["method"], other["missing"]) == (None, "a method of others: the paper's figures only")
