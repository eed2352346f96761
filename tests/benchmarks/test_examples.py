from __future__ import annotations

from pathlib import Path
from typing import Literal

from cada_edge.benchmarks.examples import first_of_each_kind
from cada_edge.runtime.datasets import Sample


def test_the_first_defect_and_the_first_good_part_of_each_kind_are_shown() -> None:
    split: Literal["test"] = "test"
    rows = [("b", False), ("b", True), ("a", False), ("a", False), ("b", True), ("a", True), ("c", False)]
    samples = [
        Sample(Path("x.png"), kind, split, anomalous, "cut" if anomalous else "good", None, "x.png")
        for kind, anomalous in rows
    ]
    assert first_of_each_kind(samples) == [5, 1, 2, 0, 6]
    assert first_of_each_kind([]) == []
