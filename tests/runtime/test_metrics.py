from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cada_edge.errors import InputError
from cada_edge.runtime import score_runs
from cada_edge.runtime.metrics import PixelScores, auroc, average_precision, rank_metrics, rank_runs
from cada_edge.runtime.score_memory import SMALLEST_LIMIT, ScoreMemory
from cada_edge.runtime.score_runs import ScoreRuns

Pair = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator], Pair]


def gaussian(rng: np.random.Generator) -> Pair:
    return rng.normal(1.0, 1.0, 4000), rng.normal(0.0, 1.0, 50000)


def tied(rng: np.random.Generator) -> Pair:
    return rng.integers(0, 12, 3000) / 8.0, rng.integers(0, 10, 40000) / 8.0


def constant(rng: np.random.Generator) -> Pair:
    return np.full(300, 0.25), np.full(7000, 0.25)


def negative(rng: np.random.Generator) -> Pair:
    return -rng.exponential(1.0, 2000), -rng.exponential(2.0, 30000)


def denormal(rng: np.random.Generator) -> Pair:
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    return rng.integers(0, 60, 2000) * smallest, rng.integers(0, 50, 30000) * smallest


def signed_zeros(rng: np.random.Generator) -> Pair:
    return rng.choice([-0.0, 0.0, 1.0], 2000), rng.choice([-0.0, 0.0, -1.0], 30000)


def large_offset(rng: np.random.Generator) -> Pair:
    return 1e6 + rng.normal(0.5, 0.3, 3000), 1e6 + rng.normal(0.0, 0.3, 40000)


def narrow_clusters(rng: np.random.Generator) -> Pair:
    low, high = 1e-3 + rng.random(40000) * 1e-8, 5.0 + rng.random(40000) * 1e-6
    return np.concatenate([low[:2000], high[:1000]]), np.concatenate([low[2000:], high[1000:5000]])


def outlier(rng: np.random.Generator) -> Pair:
    positive, normal = gaussian(rng)
    return np.append(positive, -1e30), np.append(normal, 1e30)


def separated(rng: np.random.Generator) -> Pair:
    return rng.random(100) + 2.0, rng.random(100)


def one_each(rng: np.random.Generator) -> Pair:
    return np.array([0.3]), np.array([0.4])


DRAWS: list[Draw] = [
    gaussian, tied, constant, negative, denormal, signed_zeros, large_offset, narrow_clusters, outlier,
    separated, one_each,
]  # fmt: skip


def by_scikit_learn(positive: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    labels = np.concatenate([np.ones(positive.size), np.zeros(normal.size)])
    scores = np.concatenate([positive.ravel(), normal.ravel()])
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("draw", DRAWS)
def test_equals_scikit_learn(draw: Draw, dtype: type[np.floating]) -> None:
    positive, normal = (scores.astype(dtype) for scores in draw(np.random.default_rng(1)))
    wanted = by_scikit_learn(positive, normal)
    assert auroc(positive, normal) == pytest.approx(wanted[0], abs=1e-9)
    assert average_precision(positive, normal) == pytest.approx(wanted[1], abs=1e-9)
    assert rank_metrics(positive, normal) == (auroc(positive, normal), average_precision(positive, normal))


@pytest.mark.parametrize("window", [1, 500, 1 << 21])
@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("draw", DRAWS)
def test_pixels_in_many_short_runs_equal_scikit_learn(
    draw: Draw, spilled: bool, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far smaller windows than in use: most of these sets would else be merged at once.
    monkeypatch.setattr(score_runs, "_WINDOW", window)
    positive, normal = (scores.astype(np.float32) for scores in draw(np.random.default_rng(2)))
    with ScoreMemory() as memory:
        pixels = PixelScores()
        pixels.positive = ScoreRuns(memory=memory, run_length=1700)
        pixels.negative = ScoreRuns(memory=memory, run_length=9999)
        for part in np.array_split(positive, 7):
            pixels.positive.append(part)
        for part in np.array_split(normal, 11):
            pixels.negative.append(part)
        if spilled:
            pixels.positive.spill()
            pixels.negative.spill()
            assert memory.stored_bytes == 2 * (positive.size + normal.size)
        assert len(pixels.negative.runs()) == -(-normal.size // 9999)
        assert pixels.metrics() == pytest.approx(by_scikit_learn(positive, normal), abs=1e-9)


def test_what_is_beyond_the_limit_is_ranked_as_well() -> None:
    rng = np.random.default_rng(8)
    positive = rng.normal(1.0, 1.0, 200_000).astype(np.float32)
    normal = rng.normal(0.0, 1.0, 900_000).astype(np.float32)
    with ScoreMemory(SMALLEST_LIMIT) as memory:
        groups = [PixelScores(memory=memory) for _ in range(3)]
        for group, part, other in zip(
            groups, np.array_split(positive, 3), np.array_split(normal, 3), strict=True
        ):
            for piece in np.array_split(part, 5):
                group.positive.append(piece)
            for piece in np.array_split(other, 5):
                group.negative.append(piece)
        assert memory.stored_bytes >= 2 * 1_100_000 - SMALLEST_LIMIT
        assert PixelScores.joint_metrics(groups) == pytest.approx(by_scikit_learn(positive, normal), abs=1e-9)


def test_more_positives_than_are_ranked_at_once() -> None:
    rng = np.random.default_rng(3)
    positive = rng.normal(0.5, 1.0, 200_000).astype(np.float32)
    normal = rng.normal(0.0, 1.0, 100_000).astype(np.float32)
    assert auroc(positive, normal) == pytest.approx(by_scikit_learn(positive, normal)[0], abs=1e-9)
    assert average_precision(positive, normal) == pytest.approx(
        by_scikit_learn(positive, normal)[1], abs=1e-9
    )


def test_maps_with_masks_equal_their_pixels() -> None:
    rng = np.random.default_rng(4)
    maps = rng.random((6, 31, 17)).astype(np.float32)
    masks = (rng.random((6, 31, 17)) < 0.2).astype(np.uint8) * np.uint8(255)
    masks[0] = 0
    pixels, groups = PixelScores(), [PixelScores(), PixelScores()]
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        pixels.append(anomaly_map, None if index == 0 else mask)
        groups[index % 2].append(anomaly_map, mask)
    wanted = by_scikit_learn(maps[masks > 0], maps[masks == 0])
    assert pixels.metrics() == pytest.approx(wanted, abs=1e-12)
    assert PixelScores.joint_metrics(groups) == pytest.approx(wanted, abs=1e-12)
    # Appending goes on after the metrics were asked for.
    pixels.append(maps[1], masks[1])
    again = by_scikit_learn(
        np.concatenate([maps[masks > 0], maps[1][masks[1] > 0]]),
        np.concatenate([maps[masks == 0], maps[1][masks[1] == 0]]),
    )
    assert pixels.metrics() == pytest.approx(again, abs=1e-12)


def test_hand_computed() -> None:
    # The order is 4+, 3-, then 2+ tied with 2-, then 1-: the positives win 3 and 1.5 of 3 pairs each.
    positive, normal = np.array([4.0, 2.0]), np.array([3.0, 2.0, 1.0])
    assert auroc(positive, normal) == (3 + 0 + 0.5 + 1) / 6
    assert average_precision(positive, normal) == (1 / 1 + 2 / 4) / 2


def test_infinities_rank_like_other_scores() -> None:
    positive, normal = np.array([np.inf, 1.0, -np.inf]), np.array([np.inf, 0.0, -np.inf])
    assert auroc(positive, normal) == (2.5 + 2 + 0.5) / 9
    assert average_precision(positive, normal) == (1 / 2 + 2 / 3 + 3 / 6) / 3


def test_the_callers_arrays_stay_as_they_are() -> None:
    positive, normal = gaussian(np.random.default_rng(5))
    before = positive.copy(), normal.copy()
    auroc(positive, normal)
    np.testing.assert_array_equal(positive, before[0])
    np.testing.assert_array_equal(normal, before[1])


def test_strided_and_two_dimensional_arrays() -> None:
    rng = np.random.default_rng(6)
    positive, normal = rng.random((40, 6))[::2, ::3], np.asfortranarray(rng.random((30, 50)))
    assert auroc(positive, normal) == pytest.approx(by_scikit_learn(positive, normal)[0], abs=1e-12)


def test_one_class_only_gives_none() -> None:
    empty, some = np.empty(0, np.float32), np.ones(3, np.float32)
    for pair in [(empty, some), (some, empty), (empty, empty)]:
        assert auroc(*pair) is None
        assert average_precision(*pair) is None
    assert rank_runs([], [ScoreRuns.of(some)]) == (None, None)
    assert PixelScores().metrics() == (None, None)


def test_nan_is_refused_with_its_count() -> None:
    scores = np.array([0.1, np.nan, 0.2, np.nan], np.float32)
    message = r"2 of 4 scores are NaN; wanted numbers.*cada-edge predict"
    for pair in [(scores, np.ones(3, np.float32)), (np.ones(3, np.float32), scores)]:
        with pytest.raises(InputError, match=message):
            auroc(*pair)
    pixels = PixelScores()
    with pytest.raises(InputError, match=message):
        pixels.append(scores.reshape(2, 2), None)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"mask of shape \(3, 3\) came .* shape \(4, 4\).*resize_mask"):
        PixelScores().append(np.zeros((4, 4), np.float32), np.zeros((3, 3), np.uint8))


def test_no_numpy_warning_on_extreme_values() -> None:
    extreme = np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny, -1e30], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert auroc(extreme, extreme) == 0.5
