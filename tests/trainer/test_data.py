from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from cada_edge.runtime import datasets
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.images import read_image
from cada_edge.runtime.preprocess import preprocess
from cada_edge.trainer.data import batches, decode


def test_training_and_inference_see_the_same_bytes(tmp_path: Path) -> None:
    """One function prepares both: the same object and the same bytes, for sizes that shrink, grow or both."""
    assert datasets.preprocess is preprocess  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for number, shape in enumerate([(300, 200, 3), (40, 50, 3), (30, 500, 3), (64, 64), (90, 70, 4)]):
        path = tmp_path / "normal" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, shape, np.uint8))
    samples = index_dataset(tmp_path).train
    frames = decode(samples, 64)
    for frame, sample in zip(frames, samples, strict=True):
        np.testing.assert_array_equal(frame, preprocess(read_image(sample.image), (64, 64)))


def test_batches_keep_order_and_end_small() -> None:
    frames = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    parts = list(batches(frames, 2, torch.device("cpu")))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(torch.cat(parts).numpy(), frames)
