from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from cada_edge.benchmarks.aupro import main as aupro_main
from cada_edge.benchmarks.aupro import measure
from cada_edge.benchmarks.pixel_metrics import DRAWS, SIDES, draw_scores, main, measure_side
from cada_edge.errors import MissingExtraError


@pytest.mark.parametrize("draw", DRAWS)
def test_both_sides_find_the_same(draw: str) -> None:
    positive, normal = draw_scores(draw, 30_000, share=0.1)
    assert (positive.size, normal.size) == (3_000, 27_000)
    ours, theirs = (measure_side(side, positive, normal, repeats=2) for side in SIDES)
    assert ours.auroc == pytest.approx(theirs.auroc, abs=1e-9)
    assert ours.average_precision == pytest.approx(theirs.average_precision, abs=1e-9)
    # Two normal distributions, one deviation apart; 'tied' has a grid of 1/8 only.
    assert ours.auroc == pytest.approx(norm.cdf(np.sqrt(0.5)), abs=0.02)


def test_both_sides_are_printed_with_their_ratio() -> None:
    result = CliRunner().invoke(main, ["--pixels", "20000"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "20000 pixels, gaussian, 2.0% anomalous"
    assert [line.split()[0] for line in lines[1:]] == ["cada-edge", "scikit-learn", "ratio"]


def test_a_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(MissingExtraError, match=r"'scikit-learn', which is not installed.*cada-edge\[test\]"):
        measure_side("scikit-learn", *draw_scores("gaussian", 100, share=0.5))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says the peak")
def test_memory_stays_under_four_bytes_a_pixel_and_a_chunk() -> None:
    result = CliRunner().invoke(main, ["--side", "cada-edge", "--pixels", "60000000", "--json"])
    peak_mib = json.loads(result.stdout)["sides"][0]["peak_mib"]
    # At 142 million pixels the same leaves 1 GiB unreached: 542 MiB and the chunk.
    assert peak_mib < 4 * 60e6 / 2**20 + 200


def test_aupro_of_drawn_maps() -> None:
    found = measure(3, 64)
    assert found["images"] == 3
    assert 3 <= found["regions"] <= 12
    # The anomalous lie one deviation higher: more than by chance (0.15), less than all.
    assert 0.15 < found["aupro"] < 0.7
    result = CliRunner().invoke(aupro_main, ["--images", "2", "--size", "32"])
    assert json.loads(result.stdout)["images"] == 2
