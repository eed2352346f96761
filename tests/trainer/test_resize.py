"""A model of the paper's resize: trained, evaluated under either, and not exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cada_edge.errors import ConfigError
from cada_edge.export.to_onnx import export_onnx
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.holdout import split_holdout
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.data import decode
from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint
from cada_edge.trainer.fit import fit
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line


@pytest.fixture(scope="module")
def large_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 96 pixels, so that a model of 64 must resize them."""
    config = SyntheticConfig(
        size=96, train_per_kind=12, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "large", config)


def test_training_and_evaluation_resize_as_the_configuration_says(
    large_line: Path, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    index = index_dataset(large_line)
    config = dataclasses.replace(tiny_config, resize="pil-bilinear", alignment="none", iterations=1)
    checkpoint = fit(index, tmp_path, config).checkpoint
    training, _ = split_holdout(index.train, fraction=0.1, seed=0)
    frames = np.stack(
        [
            np.asarray(Image.open(sample.image).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))
            for sample in training
        ]
    )[..., ::-1]
    np.testing.assert_array_equal(decode(training, 64, resize_name="pil-bilinear"), frames)
    # Fewer than 8 images are held out, so the reference frames are the training's own.
    normal = load_checkpoint(checkpoint).reference_frames[load_checkpoint(checkpoint).reference_labels == 0]
    np.testing.assert_array_equal(normal, frames)

    own = evaluate_checkpoint(checkpoint, index, device="cpu")
    other = evaluate_checkpoint(checkpoint, index, resize_name="cv2-area-linear", device="cpu")
    assert (own.protocol["images"], other.protocol["images"]) == ("pil-bilinear", "cv2-area-linear")
    assert own.mixed["p_ap"] != other.mixed["p_ap"]
    with pytest.raises(ConfigError, match="resize 'pil' came; wanted one of cv2-area-linear, pil-bilinear"):
        evaluate_checkpoint(checkpoint, index, resize_name="pil", device="cpu")
    with pytest.raises(
        ConfigError, match=r"trained with --resize pil-bilinear, .* Train it without --resize\."
    ):
        export_onnx(checkpoint, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_an_unknown_resize_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resize 'pil-bilinea' came; .* Did you mean pil-bilinear\?"):
        TrainConfig(resize="pil-bilinea")
