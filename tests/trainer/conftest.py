"""Tiny models and lines for the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line


@pytest.fixture(scope="session")
def tiny_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds at 64 pixels in the MVTec layout: 24 training images, 8 test images."""
    config = SyntheticConfig(
        size=64, train_per_kind=12, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "tiny", config)


@pytest.fixture
def tiny_config() -> TrainConfig:
    """A few steps of a random, small MobileNetV3 at 64 pixels."""
    return TrainConfig(
        encoder="mobilenetv3_small_050",
        encoder_weights="random",
        size=64,
        iterations=4,
        batch_size=4,
        aligner=AlignerConfig(iterations=6, batch_size=4),
        device="cpu",
        save_every=2,
    )
