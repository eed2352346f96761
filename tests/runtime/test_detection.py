from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import BackendError, InputError
from cada_edge.runtime.detection import Detection


def make(**changes: Any) -> Detection:
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[1, 2] = 1.5
    values: dict[str, Any] = {
        "score": 1.25,
        "raw_score": 0.5,
        "threshold": 1.0,
        "pixel_threshold": 1.0,
        "anomaly_map": anomaly_map,
        "frame_index": 7,
        "source_id": "belt",
        "captured_at_s": 1.7e9,
        "captured_monotonic_s": 12.5,
        "path": Path("teil ü/部品.png"),
        "timings_ms": {"preprocess": 1.0, "inference": 6.5, "total": 8.25},
    }
    return Detection(**{**values, **changes})


@pytest.mark.parametrize(("score", "verdict"), [(0.999, False), (1.0, False), (1.001, True), (-3.0, False)])
def test_only_a_score_above_the_threshold_is_anomalous(score: float, verdict: bool) -> None:
    detection = make(score=score)
    assert detection.is_anomalous is verdict
    assert detection.pred_label is verdict
    assert detection.pred_score == score
    assert make(score=score, is_anomalous=verdict) == detection


def test_without_a_threshold_there_is_no_verdict() -> None:
    detection = make(threshold=None, pixel_threshold=None)
    assert detection.is_anomalous is None
    assert detection.mask is None
    assert detection.pred_mask is None


def test_numpy_scalars_become_plain_verdicts() -> None:
    detection = make(score=np.float32(1.25), is_anomalous=np.True_)
    assert detection.is_anomalous is True
    json.dumps(detection.to_dict(), allow_nan=False)


def test_mask_is_above_the_pixel_threshold() -> None:
    mask = make().mask
    assert mask is not None
    assert mask.dtype == np.bool_
    assert np.argwhere(mask).tolist() == [[1, 2]]
    for pixel_threshold, pixels in ((1.5, 0), (-0.1, 16)):
        pred_mask = make(pixel_threshold=pixel_threshold).pred_mask
        assert pred_mask is not None
        assert pred_mask.sum() == pixels


def test_mask_compares_with_the_exact_threshold() -> None:
    # float32(0.1) is 0.100000001490...: above 0.1, though equal once 0.1 is rounded to float32.
    mask = make(anomaly_map=np.full((2, 2), 0.1, np.float32), pixel_threshold=0.1).mask
    assert mask is not None
    assert mask.all()


def test_a_model_that_only_scores_has_neither_map_nor_mask() -> None:
    detection = make(anomaly_map=None)
    assert detection.mask is None
    with pytest.raises(InputError, match=r"has no anomaly map; wanted one to resize. Test"):
        detection.anomaly_map_at((8, 8))


def test_map_is_enlarged_bilinearly() -> None:
    detection = make(anomaly_map=np.array([[0, 1], [0, 1]], np.float32))
    expected = np.tile(np.array([0, 0.25, 0.75, 1], np.float32), (3, 1))
    np.testing.assert_array_equal(detection.anomaly_map_at((3, 4)), expected)


def test_map_shrinks_by_area_so_that_small_peaks_stay() -> None:
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[1, 1] = 64.0
    resized = make(anomaly_map=anomaly_map[::1, ::1]).anomaly_map_at((8, 8))
    assert resized[0, 0] == 1.0
    assert resized.sum() == 1.0


def test_map_at_its_own_size_is_a_copy_and_strides_do_not_matter() -> None:
    anomaly_map = np.arange(30, dtype=np.float32).reshape(5, 6)[::-1, ::2]
    detection = make(anomaly_map=anomaly_map)
    resized = detection.anomaly_map_at((5, 3))
    np.testing.assert_array_equal(resized, anomaly_map)
    resized[:] = -1
    assert anomaly_map.min() == 0


@pytest.mark.parametrize("size_hw", [(0, 4), (4, -1)])
def test_an_impossible_size_is_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"pixels came; wanted \(height, width\).*Pass frame.shape"):
        make().anomaly_map_at(size_hw)


@pytest.mark.parametrize("name", ["score", "raw_score"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_a_broken_model(name: str, value: float) -> None:
    with pytest.raises(
        BackendError, match=rf"gave {name} = {value}; wanted a finite number.*cada-edge verify"
    ):
        make(**{name: value})


def test_a_map_that_is_not_finite_is_a_broken_model() -> None:
    anomaly_map = np.zeros((4, 4), np.float32)
    anomaly_map[0, :2] = np.nan, np.inf
    with pytest.raises(BackendError, match=r"map with 2 NaN or infinite pixels; wanted.*cada-edge verify"):
        make(anomaly_map=anomaly_map)


@pytest.mark.parametrize(
    "anomaly_map",
    [
        np.zeros((4, 4)),
        np.zeros((1, 4, 4), np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros(4, np.float32),
    ],
)
def test_a_map_of_another_kind_is_refused(anomaly_map: np.ndarray) -> None:
    with pytest.raises(
        InputError, match=r"An anomaly map of shape .* came; wanted float32 \(S, S\). Pass one"
    ):
        make(anomaly_map=anomaly_map)


@pytest.mark.parametrize("name", ["threshold", "pixel_threshold"])
def test_a_threshold_that_is_not_finite_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} = nan came; wanted a finite number.*cada-edge calibrate"):
        make(**{name: float("nan")})


@pytest.mark.parametrize("threshold", [2.0, None])
def test_a_contradicting_verdict_is_refused(threshold: float | None) -> None:
    with pytest.raises(InputError, match=r"is_anomalous = True came .*; wanted (False|None). Leave"):
        make(threshold=threshold, is_anomalous=True)


def test_repr_fits_one_line_and_shows_no_array() -> None:
    expected = (
        "Detection(score=1.25, threshold=1, is_anomalous=True, frame_index=7, path='teil ü/部品.png', "
        "anomaly_map=(4, 4), total_ms=8.2)"
    )
    assert repr(make()) == expected
    assert repr(make(path=None, source_id="a\nb", anomaly_map=None, timings_ms={}, frame_index=None)) == (
        "Detection(score=1.25, threshold=1, is_anomalous=True, source_id='a\\nb')"
    )
    assert repr(Detection(score=0.12345, raw_score=0.0, alignment_clamped=True)) == (
        "Detection(score=0.1235, alignment_clamped=True)"
    )


def test_to_dict_is_strict_json_without_the_map() -> None:
    assert json.loads(json.dumps(make(score=np.float32(1.25)).to_dict(), allow_nan=False)) == {
        "score": 1.25,
        "raw_score": 0.5,
        "threshold": 1.0,
        "is_anomalous": True,
        "alignment_clamped": False,
        "pixel_threshold": 1.0,
        "frame_index": 7,
        "source_id": "belt",
        "captured_at_s": 1.7e9,
        "captured_monotonic_s": 12.5,
        "path": "teil ü/部品.png",
        "dropped_before": 0,
        "backend": None,
        "timings_ms": {"preprocess": 1.0, "inference": 6.5, "total": 8.25},
    }
    bare = Detection(score=1, raw_score=1).to_dict()
    assert [name for name, value in bare.items() if value is not None] == [
        "score",
        "raw_score",
        "alignment_clamped",
        "dropped_before",
        "timings_ms",
    ]


def test_equality_is_fields() -> None:
    assert make() == make()
    assert make() != make(score=1.5)
    assert make() != make(path=None)
    assert make() != make(anomaly_map=None)
    assert make() != make(anomaly_map=np.zeros((4, 4), np.float32))
    assert make() != make(anomaly_map=np.zeros((2, 2), np.float32))
    assert make() != make(timings_ms={})
    assert make(anomaly_map=None) == make(anomaly_map=None)
    assert make() != "a string"
    with pytest.raises(TypeError, match="unhashable"):
        hash(make())


def test_it_is_frozen_and_survives_copies_and_processes() -> None:
    detection = make()
    with pytest.raises(FrozenInstanceError):
        detection.score = 2.0  # type: ignore[misc]
    assert copy.deepcopy(detection) == detection
    assert pickle.loads(pickle.dumps(detection)) == detection
    assert replace(detection, is_anomalous=None, threshold=1.5).is_anomalous is False
