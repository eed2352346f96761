from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.benchmarks.heat_maps import strip_of_example, unaligned_range

SIZE = 32
"""Of the result's examples."""


def test_heat_maps_share_one_scale(result: DemoResult) -> None:
    shown = result.examples[1]
    strip = strip_of_example(shown, (0.0, 0.1))
    assert shown.defect == "good"
    gap = SIZE // 32
    tiles = [strip[:, column * (SIZE + gap) :][:, :SIZE] for column in range(4)]
    assert strip.shape == (SIZE, 4 * SIZE + 3 * gap, 4)
    # RGB of the BGR frame; a good part has no outline.
    assert np.array_equal(tiles[0][0, 0], (200, 120, 10, 255))
    assert np.array_equal(tiles[0], tiles[1])
    # 0.1 of none and 1 of cada are the same colour, and so is all above.
    assert np.abs(tiles[2].astype(int) - tiles[3]).max() <= 4
    assert len(np.unique(tiles[3][SIZE // 2 + 1 :].reshape(-1, 4), axis=0)) == 1
    assert (strip[:, SIZE : SIZE + gap, 3] == 0).all()


def test_the_outline_surrounds_the_defect_and_leaves_it_open(result: DemoResult) -> None:
    strip = strip_of_example(result.examples[0], (0.0, 0.1))
    outlined = strip[:, SIZE + 1 : 2 * SIZE + 1, :3]
    assert (outlined[8:16, 8:16] == (200, 120, 10)).all()
    assert (outlined[7, 8:16] == (255, 235, 59)).all()
    assert (outlined[6, 8:16] == 0).all()


def test_the_unaligned_scale_is_the_training_sets_where_it_is_known(result: DemoResult) -> None:
    low, high = unaligned_range(result)
    assert (low, high) == pytest.approx((0.1, 0.2))
    assert unaligned_range(dataclasses.replace(result, average_range=(0.3, 0.7))) == (0.3, 0.7)
