from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from cada_edge.errors import ConfigError, InputError
from cada_edge.manifest import Calibration
from cada_edge.runtime.conformal import (
    clopper_pearson,
    conformal_threshold,
    images_for_confidence,
    images_needed,
    to_calibration,
)


def shuffled(count: int) -> np.ndarray:
    """The scores 1 ... count in disorder: the r-th smallest is r."""
    return np.random.default_rng(count).permutation(np.arange(1.0, count + 1))


@pytest.mark.parametrize(
    ("images", "rate", "rank"),
    [
        (199, 0.005, 199),
        (200, 0.005, 200),
        (398, 0.005, 398),
        (399, 0.005, 398),
        (598, 0.005, 597),
        (1000, 0.005, 996),
        (99, 0.01, 99),
        (19, 0.05, 19),
        (9, 0.1, 9),
        (99, 0.1, 90),
        (999, 0.001, 999),
        (9, 0.3, 7),
        (2, 1 / 3, 2),
        (1, 0.5, 1),
    ],
)
def test_threshold_is_the_score_of_the_rules_rank(images: int, rate: float, rank: int) -> None:
    record = conformal_threshold(shuffled(images), rate)
    assert record.threshold == rank
    assert record.warning is None
    assert record.images == images
    assert record.false_alarm_rate == rate
    assert record.supported_false_alarm_rate == 1 / (images + 1)


@pytest.mark.parametrize("images", [1, 50, 198])
def test_too_few_images_give_the_maximum_and_a_warning(images: int) -> None:
    record = conformal_threshold(shuffled(images), 0.005)
    assert record.threshold == images
    assert record.images_needed == 199
    assert record.warning is not None
    assert (
        f"{images} normal images cannot promise a false-alarm rate of 0.005: that needs 199" in record.warning
    )
    assert "598" in record.warning
    assert "cada-edge calibrate" in record.warning


@pytest.mark.parametrize(
    ("rate", "needed", "sure"),
    [(0.005, 199, 598), (0.01, 99, 299), (0.05, 19, 59), (0.1, 9, 29), (0.001, 999, 2995), (0.3, 3, 9)],
)
def test_images_needed(rate: float, needed: int, sure: int) -> None:
    assert images_needed(rate) == needed
    assert images_for_confidence(rate) == sure
    assert conformal_threshold(shuffled(needed), rate).warning is None
    assert conformal_threshold(shuffled(needed - 1), rate).warning is not None


@pytest.mark.parametrize(
    ("count", "total"),
    [
        (0, 1),
        (1, 1),
        (0, 199),
        (1, 200),
        (5, 1000),
        (500, 1000),
        (999, 1000),
        (1000, 1000),
        (3, 8),
        (50, 100_000),
    ],
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_equals_scipy(count: int, total: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    # The definition by quantiles: scipy.stats.binomtest solves for the ends to seven digits only.
    wanted_low = stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
    wanted_high = stats.beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
    low, high = clopper_pearson(count, total, confidence=confidence)
    assert low == pytest.approx(float(wanted_low), rel=1e-9, abs=1e-15)
    assert high == pytest.approx(float(wanted_high), rel=1e-9, abs=1e-15)


def test_interval_is_that_of_the_scores_above_the_threshold() -> None:
    record = conformal_threshold(shuffled(1000), 0.005)
    # The 996-th of 1000: four lie above it.
    assert record.interval_low == pytest.approx(float(stats.beta.ppf(0.025, 4, 997)), rel=1e-9)
    assert record.interval_high == pytest.approx(float(stats.beta.ppf(0.975, 5, 996)), rel=1e-9)


def test_upper_end_holds_in_as_many_calibrations_as_it_says() -> None:
    # The rate of a uniform score above t is 1 - t.
    rng = np.random.default_rng(8)
    records = [conformal_threshold(rng.random(100), 0.05) for _ in range(2000)]
    rates = [1 - record.threshold for record in records]
    assert np.mean(rates) == pytest.approx(5 / 101, abs=0.002)
    missed = np.mean([rate > record.interval_high for rate, record in zip(rates, records, strict=True)])
    assert missed == pytest.approx(0.025, abs=0.01)
    inside = [
        record.interval_low <= rate <= record.interval_high
        for rate, record in zip(rates, records, strict=True)
    ]
    assert np.mean(inside) >= 0.95


def test_verdict_is_strict_with_ties() -> None:
    scores = np.full(300, np.float32(0.7))
    record = conformal_threshold(scores, 0.005)
    assert not np.any(scores > record.threshold)
    assert (record.interval_low, record.threshold) == (0.0, float(np.float32(0.7)))


def test_calibration_record_for_the_manifest() -> None:
    record = conformal_threshold(shuffled(250), 0.005)
    calibration = to_calibration(record, source="held-out split", data_fingerprint="ab12")
    assert calibration == Calibration(
        images=250,
        false_alarm_rate=0.005,
        supported_false_alarm_rate=1 / 251,
        images_needed=199,
        images_for_confidence=598,
        interval_low=record.interval_low,
        interval_high=record.interval_high,
        source="held-out split",
        data_fingerprint="ab12",
    )
    assert json.loads(json.dumps(record.to_dict(), allow_nan=False)) == dataclasses.asdict(record)


def test_no_score_is_refused() -> None:
    with pytest.raises(InputError, match=r"No score came .* wanted one .* 199 of them .* Give a folder"):
        conformal_threshold([], 0.005)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(fault: float) -> None:
    with pytest.raises(
        InputError, match=r"1 of 3 calibration scores are NaN or infinite; .* cada-edge verify"
    ):
        conformal_threshold([0.1, fault, 0.3], 0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"false-alarm rate of .* came; wanted a share above 0 and below 1"):
        conformal_threshold([0.1], rate)
