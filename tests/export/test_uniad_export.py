"""UniAD with options of its own, the whole way: trained, loaded, evaluated, exported and run on frames."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cada_edge import Detector
from cada_edge.export.graph import FusedGraph
from cada_edge.export.to_onnx import export_onnx
from cada_edge.manifest import Manifest
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.images import read_image
from cada_edge.runtime.preprocess import preprocess
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.evaluate_checkpoint import evaluate_checkpoint
from cada_edge.trainer.fit import fit
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.uniad import UniAD, UniADOptions
from cada_edge.trainer.uniad_transformer import Attention, Projection

_VALUES = {
    "base": "uniad",
    "base_options": {"layers": 1, "distance": "l2", "tap": "neck"},
    "encoder": "resnet18",
    "encoder_weights": "random",
    "size": 64,
    "iterations": 3,
    "batch_size": 4,
    "aligner": {"iterations": 30, "batch_size": 8},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def uniad_checkpoint(small_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uniad"
    return fit(index_dataset(small_line), run, configure(_VALUES)).checkpoint


def test_training_prints_the_scale_of_both_maps(
    small_line: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {**_VALUES, "iterations": 1, "alignment": "none", "holdout_fraction": 0.0}
    with caplog.at_level("INFO", logger="cada_edge.trainer.align"):
        fit(index_dataset(small_line), tmp_path / "run", configure(values))
    number = r"([\d.e+-]+)"
    pattern = rf"(.*)mean u_img {number} and mean g_img {number} over 24 training images"
    found = {}
    for record in caplog.records:
        if match := re.fullmatch(pattern, record.getMessage()):
            found[match[1]] = (float(match[2]), float(match[3]))
    assert list(found) == ["distance mse: ", "distance l2: ", ""]
    # The run's own map is l2's, over the same 24 images, and its figure was measured on another way.
    assert found[""] == pytest.approx(found["distance l2: "], rel=2e-3)
    assert found["distance mse: "] != pytest.approx(found["distance l2: "], rel=0.5)


def _frames(line: Path) -> torch.Tensor:
    return torch.stack(
        [
            torch.from_numpy(preprocess(read_image(sample.image), (64, 64)))
            for sample in index_dataset(line).test
        ]
    )


def _scores(model: TrainedModel, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        score, aligned, _ = model(frames)
    return score, aligned


def test_the_checkpoint_brings_the_method_and_its_options_back(uniad_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(uniad_checkpoint)
    base = checkpoint.model.base
    assert isinstance(base, UniAD)
    assert base.options == UniADOptions(layers=1, distance="l2", tap="neck")
    assert not base.training
    assert checkpoint.config.gradient_clip == 0.1
    assert checkpoint.model.regressor is not None


def test_its_evaluation_ranks_the_models_scores(uniad_checkpoint: Path, small_line: Path) -> None:
    scores, _ = _scores(load_checkpoint(uniad_checkpoint).model, _frames(small_line))
    labels = [sample.anomalous for sample in index_dataset(small_line).test]
    found = evaluate_checkpoint(uniad_checkpoint, index_dataset(small_line), device="cpu")
    assert found.mixed["i_auroc"] == pytest.approx(100 * roc_auc_score(labels, scores.numpy()), abs=1e-9)


def test_the_deployed_score_is_the_evaluated_score(
    uniad_checkpoint: Path, small_line: Path, tmp_path: Path
) -> None:
    result = export_onnx(uniad_checkpoint, tmp_path / "uniad.onnx")
    assert Manifest.read(result.model).base == "uniad"
    assert result.parity.max_score_difference <= 1e-4
    scores, maps = _scores(load_checkpoint(uniad_checkpoint).model, _frames(small_line))
    with Detector(result.model) as detector:
        for row, sample in enumerate(index_dataset(small_line).test):
            detection = detector(read_image(sample.image))
            assert detection.score == pytest.approx(scores[row].item(), rel=1e-4, abs=1e-4)
            assert detection.anomaly_map == pytest.approx(maps[row].numpy(), rel=1e-4, abs=1e-4)


def test_in_half_precision_tokens_and_softmax_stay_in_fp32(uniad_checkpoint: Path, small_line: Path) -> None:
    model = load_checkpoint(uniad_checkpoint).model
    half = FusedGraph(model, precision="fp16")
    seen: list[torch.dtype] = []
    for module in half.modules():
        if isinstance(module, Attention):
            module.dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(
                lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype])
            )
    images = model.normalize(_frames(small_line))
    with torch.inference_mode():
        (found,), tapped = half.model.base(images)
        (wanted,), _ = model.base(images)
    # One attention and two norms in the encoder, two and three in the decoder, and the last norm.
    assert seen == [torch.float32] * (3 + 2 * 6)
    assert found.dtype == tapped.dtype == torch.float32
    # One rounding of 2^-12; the aligned score may divide it by a small range.
    torch.testing.assert_close(found, wanted, atol=0.0, rtol=2.5e-4)


@pytest.mark.parametrize(("tap", "layers_in_half"), [("transformer", 10 + 1), ("neck", 10 + 1 + 6 + 1)])
def test_what_the_aligner_taps_is_not_halved(tap: str, layers_in_half: int) -> None:
    """The decoder's ten linear layers and the last are halved; the encoder's six and the first by the tap."""
    config = configure({**_VALUES, "base_options": {"layers": 1, "tap": tap}})
    model, _ = build_model(config, encoder_weights="random")
    half = FusedGraph(model.eval(), precision="fp16").model.base
    assert isinstance(half, UniAD)
    kinds = [item.weight.dtype for item in half.modules() if isinstance(item, Projection)]
    assert kinds.count(torch.float16) == layers_in_half
    assert half.transformer.rows.dtype == half.neck.resize_0.dtype == torch.float32
    first, *others = (item for item in half.encoder.modules() if isinstance(item, nn.Conv2d))
    assert first.in_channels == 3
    assert first.weight.dtype == torch.float32
    assert {item.weight.dtype for item in others} == {torch.float16}
