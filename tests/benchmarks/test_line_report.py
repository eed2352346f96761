"""Tables and sentences of a study, on made-up cells whose answers are known by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from cada_edge.benchmarks.line_report import (
    Cell,
    describe_kernels,
    describe_noise,
    noise_table,
    summarise,
    table,
)

_FIGURES: dict[str, float | None] = {"i_auroc": 90.0, "i_ap": 80.0, "p_auroc": 70.0, "p_ap": 60.0}


def _cells(label: str, shares: Mapping[float, Sequence[float]]) -> list[Cell]:
    """Make cells of a variant: share -> mixed I-AUROC of the seeds 20, 21, ...; the rest is the same."""
    return [
        Cell("revdist", label, share, 20 + row, {**_FIGURES, "i_auroc": value}, _FIGURES)
        for share, values in shares.items()
        for row, value in enumerate(values)
    ]


def test_means_and_ranges() -> None:
    cells = _cells("cada", {0.05: (90.0, 93.0, 91.5)})
    assert summarise(cells, "i_auroc") == {("revdist", 0.05, "cada"): "91.5 (90.0-93.0)"}
    assert summarise(cells, "i_auroc", mixed=False) == {("revdist", 0.05, "cada"): "90.0 (90.0-90.0)"}
    last = table(cells).splitlines()[-1]
    assert last.startswith("| revdist | 5 % | cada | 91.5 (90.0-93.0) | 80.0 (80.0-80.0) |")
    assert len({row.count("|") for row in table(cells).splitlines()}) == 1


def test_a_missing_figure_is_a_dash() -> None:
    cells = _cells("cada", {0.0: (90.0, 93.0)})
    cells[1] = dataclasses.replace(cells[1], mixed={**_FIGURES, "i_auroc": None})
    assert table(cells).splitlines()[-1].startswith("| revdist | 0 % | cada | - | 80.0 (80.0-80.0) |")


def test_cada_sigma_overtakes_and_the_ranges_separate_later() -> None:
    cada = {
        0.0: (90.0, 91.0, 92.0),
        0.05: (88.0, 89.0, 90.0),
        0.1: (85.0, 86.0, 87.0),
        0.2: (80.0, 81.0, 82.0),
    }
    sigma = {
        0.0: (87.0, 88.0, 89.0),
        0.05: (87.0, 88.5, 89.0),
        0.1: (86.0, 86.5, 86.5),
        0.2: (83.0, 84.0, 85.0),
    }
    cells = _cells("cada", cada) + _cells("cada-sigma", sigma)
    assert describe_noise(cells)[0] == (
        "revdist, mixed I-AUROC: cada-sigma overtakes cada at 10 %: 86.3 (86.0-86.5) against "
        "86.0 (85.0-87.0), above on 2 of 3 seeds; the ranges separate at 20 % with cada-sigma above and at "
        "0 % with cada above."
    )
    # In the other metrics both are alike: not above is not ahead.
    assert describe_noise(cells)[1] == (
        "revdist, mixed I-AP: cada-sigma overtakes cada at no share up to 20 %; there 80.0 (80.0-80.0) "
        "against 80.0 (80.0-80.0), above on 0 of 3 seeds; the ranges overlap at every share."
    )
    assert len(describe_noise(cells)) == 4


def test_cada_sigma_ahead_and_behind_again() -> None:
    cells = _cells("cada", {0.05: (80.0, 90.0), 0.0: (80.0, 90.0), 0.1: (80.0, 90.0)})
    cells += _cells("cada-sigma", {0.0: (81.0, 91.0), 0.05: (79.0, 89.0), 0.1: (82.0, 92.0)})
    assert describe_noise(cells)[0] == (
        "revdist, mixed I-AUROC: cada-sigma is ahead of cada already at 0 %: 86.0 (81.0-91.0) against "
        "85.0 (80.0-90.0), above on 2 of 2 seeds; it is not ahead at 5 %; the ranges overlap at every share."
    )


def test_only_seeds_that_both_have_are_compared() -> None:
    cells = _cells("cada", {0.0: (80.0, 99.0)}) + _cells("cada-sigma", {0.0: (81.0,)})
    assert "81.0 (81.0-81.0) against 80.0 (80.0-80.0), above on 1 of 1 seed;" in describe_noise(cells)[0]
    assert describe_noise(_cells("cada", {0.0: (80.0,)})) == []
    assert noise_table(_cells("cada", {0.0: (80.0,)})) == ""


def test_the_gains_stand_beside_the_papers_rows() -> None:
    cells = _cells("cada", {0.0: (90.0, 91.0), 0.05: (85.0, 86.0)})
    cells += _cells("cada-sigma", {0.0: (88.0, 89.0), 0.05: (86.0, 88.0)})
    assert noise_table(cells).splitlines() == [
        "| mixed | I-AUROC | I-AP | P-AUROC | P-AP |",
        "|---|---|---|---|---|",
        # paper.md, Table 5, typed here once more.
        "| paper, Table 5, BTAD (noisy): RevDist, none | 81.1 | 83.5 | 97.4 | 60.8 |",
        "| paper, Table 5, BTAD (noisy): RevDist, cada | 88.1 | 88.6 | 97.2 | 54.0 |",
        "| paper, Table 5, BTAD (noisy): RevDist, cada-sigma | 98.4 | 97.6 | 97.6 | 51.4 |",
        "| paper, Table 5, BTAD (noisy): cada-sigma less cada | +10.3 | +9.0 | +0.4 | -2.6 |",
        "| here, revdist, 0 % spoiled: cada-sigma less cada | -2.0 | +0.0 | +0.0 | +0.0 |",
        "| here, revdist, 5 % spoiled: cada-sigma less cada | +1.5 | +0.0 | +0.0 | +0.0 |",
    ]


@pytest.mark.parametrize(
    ("wide", "gain", "verdict", "ranges"),
    [
        ((91.0, 92.0), "+1.00", "more than 0.5, so 3x3 becomes the default", "the ranges overlap"),
        ((90.5, 91.5), "+0.50", "not more than 0.5, so 1x1 stays the default", "the ranges overlap"),
        ((80.0, 81.0), "-10.00", "not more than 0.5, so 1x1 stays the default", "the ranges separate"),
        ((95.0, 96.0), "+5.00", "more than 0.5, so 3x3 becomes the default", "the ranges separate"),
    ],
)
def test_the_rule_of_the_kernel(wide: Sequence[float], gain: str, verdict: str, ranges: str) -> None:
    cells = _cells("1x1", {0.0: (90.0, 91.0)}) + _cells("3x3", {0.0: wide})
    (sentence,) = describe_kernels(cells)
    wins = sum(value > narrow for value, narrow in zip(wide, (90.0, 91.0), strict=True))
    assert sentence == (
        f"revdist, mixed I-AUROC: 3x3 less 1x1 is {gain} points, {verdict}; 3x3 has "
        f"{sum(wide) / 2:.1f} ({wide[0]:.1f}-{wide[1]:.1f}) against 90.5 (90.0-91.0), "
        f"above on {wins} of 2 seeds; {ranges}."
    )


def test_no_sentence_without_both_kernels() -> None:
    assert describe_kernels(_cells("1x1", {0.0: (90.0,)})) == []
