from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from cada_edge.benchmarks.bench_stats import quantile_ranks, ratio_of, samples_needed, summarize


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
    assert summary.quantile(50).value == pytest.approx(np.median(values))
    found = summary.to_dict()
    # Ranks 983 and 997 of 1,000, whatever the distribution.
    assert found["p99_interval"] == [984.0, 998.0]
    assert found["p99"] == pytest.approx(np.percentile(values, 99))


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
