from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cada_edge.errors import FrameError
from cada_edge.runtime.preprocess import preprocess, preprocess_batch, resize, to_bgr

# Computed with OpenCV 4.8.1 and 5.0.0 alike: a change here changes every deployed model's input.
GOLDEN = {
    (1080, 1920): "c006f45658c5b595",
    (480, 640): "ae2f4d6b019afa56",
    (300, 257): "b5a31dea5cdc1f55",
    (100, 700): "c1a5c9d9448c3004",
    (64, 48): "e620c5eafda56732",
}


def _frame(height: int, width: int) -> NDArray[np.uint8]:
    """A frame of gradients, edges and noise that needs no random generator."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    planes = [(x * 7 + y * 3) % 256, (x * x // 5 + y * 11) % 256, ((x // 9 + y // 7) % 2) * 255]
    return np.stack(planes, 2).astype(np.uint8)


@pytest.mark.parametrize("size_hw", sorted(GOLDEN))
def test_golden_bytes(size_hw: tuple[int, int]) -> None:
    resized = resize(_frame(*size_hw), (256, 256))
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == GOLDEN[size_hw]


def test_both_axes_shrink_by_area_in_one_call() -> None:
    frame = _frame(720, 1280)
    assert np.array_equal(
        resize(frame, (256, 256)), cv2.resize(frame, (256, 256), interpolation=cv2.INTER_AREA)
    )


def test_one_axis_shrinks_by_area_before_the_other_grows_linearly() -> None:
    frame = _frame(100, 700)
    shrunk = cv2.resize(frame, (256, 100), interpolation=cv2.INTER_AREA)
    # Area along one axis only is a mean over neighbouring columns: check it without OpenCV.
    exact = frame[:, :14].astype(np.float64)  # 700 / 256 = 2.734 source columns a pixel
    first = (exact[:, 0] + exact[:, 1] + exact[:, 2] * 0.734375) / 2.734375
    assert np.abs(shrunk[:, 0] - first).max() <= 1
    wanted = cv2.resize(shrunk, (256, 256), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize(frame, (256, 256)), wanted)


def test_a_frame_of_the_right_size_is_not_copied() -> None:
    frame = _frame(64, 64)
    assert preprocess(frame, (64, 64)) is frame
    batch = preprocess_batch([frame], (64, 64))
    assert np.shares_memory(batch, frame)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_is_repeated(shape: tuple[int, ...]) -> None:
    grey = np.arange(35, dtype=np.uint8).reshape(shape)
    converted = to_bgr(grey)
    assert converted.shape == (5, 7, 3)
    assert all(np.array_equal(converted[:, :, channel], grey.reshape(5, 7)) for channel in range(3))


def test_alpha_is_dropped() -> None:
    frame = np.dstack([_frame(5, 7), np.full((5, 7), 9, np.uint8)])
    assert np.array_equal(to_bgr(frame), frame[:, :, :3])


def test_16_bits_are_scaled_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(to_bgr(every)[:, :, 0], np.floor(every / 257 + 0.5).astype(np.uint8))
    assert to_bgr(every).max() == 255


def test_strides_do_not_matter() -> None:
    frame = _frame(40, 60)
    for view in (frame[:, ::-1], frame[::2, ::3], np.asfortranarray(frame)):
        assert np.array_equal(preprocess(view, (32, 32)), preprocess(view.copy(), (32, 32)))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([[1, 2]], "type list came; wanted a numpy array"),
        (np.zeros((4, 4, 3), np.float32), "dtype float32 came; wanted uint8 or uint16"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64 came"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\) came"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\) came.*transpose\(1, 2, 0\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"detector\.batch"),
        (np.zeros(4, np.uint8), r"shape \(4,\) came"),
        (np.zeros((0, 4, 3), np.uint8), r"empty frame of shape \(0, 4, 3\)"),
    ],
)
def test_frames_that_cannot_be_used(frame: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        preprocess(frame, (32, 32))


def test_batches() -> None:
    frames: list[NDArray[Any]] = [_frame(40, 60), _frame(32, 32), _frame(7, 200)]
    batch = preprocess_batch(frames, (32, 32))
    assert batch.shape == (3, 32, 32, 3)
    assert all(
        np.array_equal(row, preprocess(frame, (32, 32))) for row, frame in zip(batch, frames, strict=True)
    )
    with pytest.raises(FrameError, match="empty batch came"):
        preprocess_batch([], (32, 32))
    with pytest.raises(FrameError, match="Frame 1 of the batch: A frame of dtype float64"):
        preprocess_batch([frames[0], np.zeros((4, 4, 3))], (32, 32))
