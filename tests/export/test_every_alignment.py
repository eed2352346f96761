"""Every alignment that a camera can have goes the whole way; the one that needs labels is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.errors import ConfigError, DatasetError
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import ALIGNMENTS, TrainConfig
from cada_edge.trainer.data import decode
from cada_edge.trainer.evaluate_checkpoint import score_samples
from cada_edge.trainer.fit import fit


def _config(alignment: str) -> TrainConfig:
    values = {"alignment": alignment, "encoder": "resnet18", "encoder_weights": "random", "size": 64}
    values |= {
        "iterations": 3,
        "batch_size": 4,
        "device": "cpu",
        "aligner": {"iterations": 60, "batch_size": 8},
    }
    return configure(values)


@pytest.fixture(scope="module")
def trained(small_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the checkpoint of an alignment, trained once: ``trained("cada")``."""

    @functools.cache
    def of(alignment: str) -> Path:
        run = tmp_path_factory.mktemp("runs") / alignment
        return fit(index_dataset(small_line), run, _config(alignment)).checkpoint

    return of


@pytest.mark.parametrize("alignment", [name for name in ALIGNMENTS if name != "class-aware"])
def test_train_evaluate_export(
    alignment: str, small_line: Path, tmp_path: Path, trained: Callable[[str], Path]
) -> None:
    index = index_dataset(small_line)
    path = trained(alignment)
    checkpoint = load_checkpoint(path)
    scored = score_samples(
        checkpoint, index.test, ["none", alignment, "class-aware"], device=torch.device("cpu")
    )
    exported = export_onnx(path, tmp_path / "model.onnx")
    manifest = json.loads(exported.manifest.read_text())
    assert (manifest["alignment"], manifest["threshold"]) == (alignment, checkpoint.threshold)
    frames = checkpoint.reference_frames[:2]
    with torch.inference_mode():
        _, _, stats = checkpoint.model(torch.from_numpy(frames))
    if alignment == "class-predicted":
        rows = [list(pair) for pair in checkpoint.class_table.values()]
        assert all(any(np.allclose(row, pair, atol=1e-6) for pair in rows) for row in stats.tolist())
        predicted = scored[alignment].scores
        assert not np.array_equal(predicted, scored["none"].scores)
    engine = choose_backend(exported.model, "onnxruntime")
    engine.open()
    try:
        np.testing.assert_allclose(engine.infer(frames).stats, stats.numpy(), rtol=1e-4, atol=1e-5)
    finally:
        engine.close()


def test_sigma_learns_another_maximum_with_the_same_base(trained: Callable[[str], Path]) -> None:
    plain, sigma = load_checkpoint(trained("cada")), load_checkpoint(trained("cada-sigma"))
    base, other = plain.model.base.state_dict(), sigma.model.base.state_dict()
    assert all(torch.equal(base[name], other[name]) for name in base)
    for name, (mean, maximum) in plain.class_table.items():
        assert sigma.class_table[name][0] == mean
        assert sigma.class_table[name][1] != maximum


def test_a_class_aware_model_is_refused_with_the_reason(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs each image's category, which a camera does not tell"):
        export_onnx(small_checkpoint, tmp_path / "model.onnx", ExportConfig(alignment="class-aware"))
    with pytest.raises(
        ConfigError, match=r"reference for evaluation only. Train with --alignment cada or class-p"
    ):
        TrainConfig(alignment="class-aware")
    with pytest.raises(
        ConfigError, match="'cada-sigma' came for a checkpoint trained with 'cada'; wanted that or"
    ):
        export_onnx(small_checkpoint, tmp_path / "model.onnx", ExportConfig(alignment="cada-sigma"))


def test_alignment_can_be_left_out(small_checkpoint: Path, small_line: Path, tmp_path: Path) -> None:
    exported = export_onnx(small_checkpoint, tmp_path / "model.onnx", ExportConfig(alignment="none"))
    manifest = json.loads(exported.manifest.read_text())
    assert (manifest["alignment"], manifest["threshold"], manifest["calibration"]) == ("none", None, None)
    checkpoint = load_checkpoint(small_checkpoint)
    samples = index_dataset(small_line).test[:2]
    wanted = score_samples(checkpoint, samples, ["none"], device=torch.device("cpu"))["none"]
    engine = choose_backend(exported.model, "onnxruntime")
    engine.open()
    try:
        found = engine.infer(decode(samples, checkpoint.config.size)).score
    finally:
        engine.close()
    np.testing.assert_allclose(found, wanted.scores, rtol=1e-4, atol=1e-5)


def test_class_predicted_needs_categories(small_line: Path, tmp_path: Path) -> None:
    index = index_dataset(small_line)
    kind = index.train[0].category
    one = dataclasses.replace(index, samples=tuple(item for item in index.samples if item.category == kind))
    with pytest.raises(
        DatasetError, match="'class-predicted' came with images of a single category; wanted at"
    ):
        fit(one, tmp_path / "run", _config("class-predicted"))
    assert not (tmp_path / "run" / "state.pt").exists()
