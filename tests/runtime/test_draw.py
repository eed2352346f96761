from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.errors import ConfigError, FrameError, InputError
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.draw import draw, heatmap

INFERNO = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(1, 256), cv2.COLORMAP_INFERNO)[0]
RED, GREEN, GREY = [36, 28, 190], [60, 120, 30], [70, 70, 70]


def make(
    value: float = 0.0, *, threshold: float | None = 1.0, score: float = 0.5, side: int = 8
) -> Detection:
    anomaly_map = np.full((side, side), value, np.float32)
    return Detection(
        score=score, raw_score=0.0, threshold=threshold, pixel_threshold=threshold, anomaly_map=anomaly_map
    )


def with_blob() -> Detection:
    """Make a detection with a hot quarter."""
    detection = make(score=1.2, side=32)
    assert detection.anomaly_map is not None
    detection.anomaly_map[16:, 16:] = 1.5
    return detection


def test_heatmap_spans_the_range_and_clips() -> None:
    anomaly_map = np.array([[-1, 0, 0.5], [1, 2, 9]], np.float32)
    levels = [[0, 0, 64], [128, 255, 255]]
    np.testing.assert_array_equal(heatmap(anomaly_map, (0.0, 2.0)), INFERNO[levels])


def test_heatmap_takes_any_strides_and_float64() -> None:
    anomaly_map = np.linspace(0, 1, 60).reshape(6, 10)[::-2, ::3]
    expected = INFERNO[np.rint(anomaly_map * 255).astype(int)]
    np.testing.assert_array_equal(heatmap(anomaly_map, (0, 1)), expected)


@pytest.mark.parametrize(
    "anomaly_map", [np.zeros(3), np.zeros((0, 3)), np.array([[np.nan]]), np.zeros((1, 2, 2))]
)
def test_heatmap_refuses_what_is_no_map(anomaly_map: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"A map of shape .* came; wanted finite floats \(H, W\). Pass"):
        heatmap(anomaly_map, (0, 1))


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_an_impossible_range_is_refused(value_range: tuple[float, float]) -> None:
    message = r"value_range=.* came; wanted \(low, high\).* Leave it out"
    with pytest.raises(ConfigError, match=message):
        heatmap(np.zeros((2, 2), np.float32), value_range)
    with pytest.raises(ConfigError, match=message):
        draw(np.zeros((2, 2), np.uint8), make(), value_range=value_range)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_impossible_opacity_is_refused(opacity: float) -> None:
    with pytest.raises(ConfigError, match=r"opacity=.* came; wanted a number from 0 to 1. Leave it out"):
        draw(np.zeros((2, 2), np.uint8), make(), opacity=opacity)


def test_a_frame_that_no_detector_takes_is_refused() -> None:
    with pytest.raises(FrameError, match="dtype float64"):
        draw(np.zeros((8, 8, 3)), make())


@pytest.mark.parametrize(
    "frame",
    [
        np.full((33, 65, 3), 90, np.uint8),
        np.full((33, 65), 90, np.uint8),
        np.full((33, 65, 1), 90, np.uint8),
        np.full((33, 65, 4), 90, np.uint8),
        np.full((33, 65, 3), 90 * 257, np.uint16),
        np.full((66, 195, 3), 90, np.uint8)[::-2, ::3],
    ],
    ids=["bgr", "grey", "grey-3d", "bgra", "16-bit", "strided"],
)
def test_cold_frames_of_every_kind_stay_as_they_are(frame: np.ndarray) -> None:
    before = frame.copy()
    drawn = draw(frame, make(0.0), show_text=False)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, np.full((33, 65, 3), 90, np.uint8))
    np.testing.assert_array_equal(frame, before)
    assert not np.may_share_memory(drawn, frame)


def test_the_frame_is_never_drawn_upon() -> None:
    for detection in (with_blob(), Detection(score=2, raw_score=0, threshold=1)):
        frame = np.full((240, 320, 3), 90, np.uint8)
        drawn = draw(frame, detection)
        assert (frame == 90).all()
        assert (drawn != 90).any()


def test_the_hottest_colour_covers_by_the_opacity() -> None:
    frame = np.full((16, 16, 3), 100, np.uint8)
    hot = make(1.5, threshold=None)
    for opacity in (0.0, 0.25, 1.0):
        expected = np.rint(opacity * INFERNO[255].astype(float) + (1 - opacity) * 100)
        drawn = draw(frame, hot, opacity=opacity, show_text=False).astype(float)
        np.testing.assert_allclose(drawn, np.broadcast_to(expected, (16, 16, 3)), atol=1)


@pytest.mark.parametrize(
    ("threshold", "top"), [(None, 1.5), (2.0, 3.0), (0.02, 0.03), (0.0, 1.5), (-1.0, 1.5)]
)
def test_the_scale_is_fixed_by_the_threshold(threshold: float | None, top: float) -> None:
    frame = np.zeros((9, 9, 3), np.uint8)
    by_default = draw(frame, make(0.7 * top, threshold=threshold), show_text=False)
    given = draw(frame, make(0.7 * top, threshold=threshold), show_text=False, value_range=(0, top))
    np.testing.assert_array_equal(by_default, given)
    # One hot pixel elsewhere leaves the others' colour as it was.
    detection = make(0.7 * top, threshold=threshold, side=9)
    assert detection.anomaly_map is not None
    detection.anomaly_map[8, 8] = 50 * top
    np.testing.assert_array_equal(draw(frame, detection, show_text=False)[4, 4], by_default[4, 4])


@pytest.mark.parametrize("side", [64, 480])
def test_the_mask_is_outlined_where_it_ends(side: int) -> None:
    frame = np.full((side, side, 3), 100, np.uint8)
    drawn = draw(frame, with_blob(), opacity=0, show_text=False)
    changed = np.argwhere((drawn != 100).any(axis=2))
    white = np.argwhere((drawn > 200).all(axis=2))
    # The hot quarter begins at the middle; the map's bilinear slope and the line's width allow some pixels.
    slack = 2 + side // 32
    assert np.abs(changed.min(axis=0) - side // 2).max() <= slack
    assert changed.max(axis=0).tolist() == [side - 1, side - 1]
    assert np.abs(white.min(axis=0) - side // 2).max() <= slack
    assert (drawn[3 * side // 4, 3 * side // 4] == 100).all()


def test_no_outline_without_a_pixel_threshold() -> None:
    frame = np.full((64, 64, 3), 100, np.uint8)
    drawn = draw(frame, make(5.0, threshold=None), opacity=0, show_text=False)
    np.testing.assert_array_equal(drawn, frame)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (480, 640), (1080, 1920), (2160, 3840)])
@pytest.mark.parametrize(
    ("threshold", "score", "colour"), [(1.0, 1.5, RED), (1.0, 0.5, GREEN), (None, 0.5, GREY)]
)
def test_the_banner_says_the_verdict_in_its_colour(
    height: int, width: int, threshold: float | None, score: float, colour: list[int]
) -> None:
    drawn = draw(np.zeros((height, width, 3), np.uint8), make(threshold=threshold, score=score))
    band = np.flatnonzero((drawn != 0).any(axis=(1, 2)))
    assert band[0] == 0
    assert len(band) <= height / 4
    assert len(band) >= 11
    np.testing.assert_array_equal(drawn[0, -1], (0.8 * np.array(colour)).astype(np.uint8))
    assert (drawn[band] > 200).all(axis=2).any()


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (20, 20), (300, 4)])
def test_frames_too_small_for_text_get_none(shape: tuple[int, int]) -> None:
    frame = np.full((*shape, 3), 100, np.uint8)
    np.testing.assert_array_equal(draw(frame, Detection(score=1, raw_score=0, threshold=0)), frame)


@pytest.mark.parametrize(
    ("width", "score", "threshold", "expected"),
    [
        (2000, 1.27, 0.94, "ANOMALOUS 1.27 > 0.94"),
        (2000, 0.5, 0.94, "NORMAL 0.5 <= 0.94"),
        (2000, 0.94, 0.94, "NORMAL 0.94 <= 0.94"),
        (2000, 0.94042, 0.94038, "ANOMALOUS 0.94042 > 0.94038"),
        (2000, 0.0123456, 0.02, "NORMAL 0.0123 <= 0.02"),
        (2000, 0.5, None, "SCORE 0.5, NO THRESHOLD"),
        (64, 1.27, 0.94, "NG 1.27"),
        (50, 0.4, 0.94, "OK 0.4"),
    ],
)
def test_the_text_says_as_much_as_fits(
    monkeypatch: pytest.MonkeyPatch, width: int, score: float, threshold: float | None, expected: str
) -> None:
    written: list[str] = []
    real = cv2.putText

    def put_text(canvas: Any, text: str, *rest: Any) -> Any:
        written.append(text)
        return real(canvas, text, *rest)

    monkeypatch.setattr(cv2, "putText", put_text)
    draw(np.zeros((64, width, 3), np.uint8), Detection(score=score, raw_score=0, threshold=threshold))
    assert written == [expected]
    written.clear()
    draw(np.zeros((64, width), np.uint8), Detection(score=score, raw_score=0), show_text=False)
    assert written == []
