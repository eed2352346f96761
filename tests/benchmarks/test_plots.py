from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cada_edge.benchmarks.demo_result import DemoResult
from cada_edge.benchmarks.plots import draw_scores, order_kinds

Vary = Callable[..., DemoResult]


def test_kinds_are_ordered_by_their_unaligned_normal_median(result: DemoResult) -> None:
    assert order_kinds(result) == ["Dichtung äöü", "螺丝 & $nut$", "screw <M3>"]


def test_far_scores_get_a_logarithmic_end(result: DemoResult, vary: Vary) -> None:
    far = np.array(result.variants["cada"].scores)
    far[-1] = 900.0
    axes = draw_scores(vary(result, "scores", cada=far), "cada").axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[1] > 900
    assert draw_scores(result, "cada").axes[0].get_xscale() == "linear"
