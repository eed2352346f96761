from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from cada_edge.benchmarks.bench_stats import (
    quantile_ranks,
    ratio_of,
    samples_needed,
    share_interval,
    summarize,
)


@pytest.mark.parametrize(("n", "level"), [(1000, 99.0), (500, 99.0), (37, 50.0), (200, 90.0), (20_000, 99.9)])
def test_ranks_cover_what_they_promise_and_no_narrower_ones_do(n: int, level: float) -> None:
    low, high = quantile_ranks(n, level)
    assert low is not None
    assert high is not None
    below = binom(n, level / 100)
    # Each side leaves out at most 2.5 %, and the next rank would leave out more.
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert below.sf(high - 1) <= 0.025 < below.sf(high - 2)


def test_too_few_samples_have_no_upper_bound() -> None:
    assert samples_needed(99) == 368
    assert quantile_ranks(367, 99)[1] is None
    assert quantile_ranks(368, 99)[1] == 368
    assert quantile_ranks(1, 50) == (None, None)


def test_a_summary_leaves_nothing_out() -> None:
    values = np.arange(1.0, 1001.0)
    values[0] = 1e6
    summary = summarize(values, (50.0, 99.0))
    assert (summary.n, summary.minimum, summary.maximum) == (1000, 2.0, 1e6)
    assert summary.mean == pytest.approx(values.mean())
    assert summary.deviation == pytest.approx(values.std(ddof=1))
    assert summary.quantile(50).value == 501.0  # the 500th of them
    found = summary.to_dict()
    # Ranks 983 and 997 of 1,000, whatever the distribution.
    assert found["p99_interval"] == [984.0, 998.0]
    assert found["p99"] == np.percentile(values, 99, method="inverted_cdf") == 991.0


def test_every_percentile_is_a_sample_and_the_share_below_is_held() -> None:
    assert summarize([20.0, 40.0], (50.0, 99.0)).quantile(99).value == 40.0
    for n in (1, 3, 10, 99, 100, 101, 367, 1000):
        values = np.arange(1.0, n + 1)
        for level in (50.0, 90.0, 99.0, 99.9):
            value = summarize(values, (level,)).quantile(level).value
            assert value is not None
            beyond, with_it = np.mean(values > value), np.mean(values >= value)
            assert beyond <= 1 - level / 100 + 1e-12
            assert with_it > 1 - level / 100 - 1e-12


def test_lost_samples_are_beyond_every_value() -> None:
    values = np.arange(1.0, 991.0)
    found = summarize(values, (50.0, 99.0), lost=10).to_dict()
    assert (found["n"], found["max"], found["mean"]) == (990, 990.0, values.mean())
    # Of 1,000, ten of which are lost, the 990th is the last that has a value; its upper bound has none.
    assert (found["p50"], found["p99"]) == (500.0, 990.0)
    assert found["p99_interval"] == [983.0, None]
    assert summarize(values, (99.0,), lost=11).quantile(99).value is None


def test_the_interval_of_a_share() -> None:
    # Agresti and Coull 1998, section 2: no success in ten has the Wilson interval 0 to 0.278.
    assert list(share_interval(0, 10)) == pytest.approx([0.0, 0.2775], abs=1e-4)
    assert list(share_interval(50, 100)) == pytest.approx([0.4038, 0.5962], abs=1e-4)


def test_one_sample_is_a_summary_too() -> None:
    found = summarize([3.0], (99.0,)).to_dict()
    assert (found["n"], found["p99"], found["deviation"]) == (1, 3.0, 0.0)
    # Whatever it is, 99 of 100 lie below the quantile: it bounds it from below, and nothing does from above.
    assert found["p99_interval"] == [3.0, None]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(0.01)  # the 99th percentile of an exponential distribution
    hits = 0
    for _ in range(300):
        quantile = summarize(rng.exponential(size=1000), (99.0,)).quantiles[0]
        assert quantile.low is not None
        assert quantile.high is not None
        hits += quantile.low <= truth <= quantile.high
    assert hits >= 0.93 * 300


def test_ratios_are_of_pairs_that_drift_together() -> None:
    drift = np.linspace(1, 3, 12)
    ratio = ratio_of(2 * drift, drift)
    assert (ratio.median, ratio.minimum, ratio.maximum, ratio.pairs) == (2.0, 2.0, 2.0, 12)
    assert (ratio.low, ratio.high) == (2.0, 2.0)
    assert ratio_of([1.0] * 5, [2.0] * 5).low is None
