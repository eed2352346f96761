from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.benchmarks.plots import draw_scores, order_kinds, to_png


def test_kinds_are_ordered_by_their_unaligned_normal_median(result: DemoResult) -> None:
    order = order_kinds(result.variants["none"].scores, result.categories, result.anomalous)
    assert order == ["Dichtung äöü", "螺丝 & $nut$", "screw <M3>"]


def test_far_scores_get_a_logarithmic_end(result: DemoResult) -> None:
    near = result.variants["cada"].scores
    far = np.array(near)
    far[-1] = 900.0

    def drawn(scores: NDArray[np.float32]) -> Axes:
        kinds = sorted(set(result.categories))
        return draw_scores(scores, result.categories, result.anomalous, kinds=kinds, threshold=0.5).axes[0]

    assert drawn(far).get_xscale() == "symlog"
    assert drawn(far).get_xlim()[1] > 900
    assert drawn(near).get_xscale() == "linear"


def test_the_threshold_is_drawn_where_there_is_one(result: DemoResult) -> None:
    scores = result.variants["cada"].scores

    def texts(threshold: float | None) -> list[str]:
        kinds = sorted(set(result.categories))
        figure = draw_scores(scores, result.categories, result.anomalous, kinds=kinds, threshold=threshold)
        return [text.get_text() for text in figure.axes[0].texts]

    assert texts(0.5) == ["threshold 0.500"]
    assert texts(None) == []


def test_a_figure_that_stands_alone_says_what_it_shows(result: DemoResult) -> None:
    kinds = sorted(set(result.categories))
    arguments = (result.variants["cada"].scores, result.categories, result.anomalous)
    figure = draw_scores(*arguments, kinds=kinds, threshold=None, title="BTAD, $a$ + CADA, seed 3")
    assert figure.get_suptitle() == "BTAD, $a$ + CADA, seed 3"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["good", "defective", "median"]
    assert len(to_png(figure)) > 1000
    alone = draw_scores(*arguments, kinds=kinds, threshold=None)
    assert (alone.legends, alone.get_suptitle()) == ([], "")
    # The axes are as high as in a report's figure.
    heights = [drawn.get_size_inches()[1] for drawn in (figure, alone)]
    assert heights[0] - heights[1] == pytest.approx(0.45)
