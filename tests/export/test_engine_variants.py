"""Every kind of graph that can be exported is built by TensorRT for RTX itself, for three GPUs at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.to_engine import EngineResult, export_engine
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.files import sha256_file
from cada_edge.manifest import ALIGNMENTS, Manifest
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.fit import fit
from cada_edge.trainer.scoring import TOP_K_LIMIT

pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")

CAPABILITIES = ("8.6", "8.9", "12.0")


@pytest.fixture(autouse=True)
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, also where there is one."""
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")


def _trained(line: Path, folder: Path, **changes: Any) -> Path:
    values = {"encoder": "resnet18", "encoder_weights": "random", "size": 64, "device": "cpu"}
    values |= {"iterations": 1, "batch_size": 2, "aligner": {"iterations": 20, "batch_size": 4}}
    return fit(index_dataset(line), folder / "run", configure({**values, **changes})).checkpoint


def _built(source: Path, folder: Path, **changes: Any) -> EngineResult:
    config = EngineConfig(**{"target": "rtx", "compute_capabilities": CAPABILITIES, **changes})
    result = export_engine(source, folder / "model.engine", config)
    manifest = Manifest.read(result.model)
    assert manifest.model_sha256 == sha256_file(result.model)
    assert manifest.engine == result.engine
    assert result.parity.max_score_difference <= result.parity.score_limit
    return result


# The alignment cada is that of every base in test_to_engine.py.
@pytest.mark.parametrize("alignment", [name for name in ALIGNMENTS if name != "cada"])
def test_every_other_alignment(
    alignment: str, small_line: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    own = alignment == "none"
    source = small_checkpoint if own else _trained(small_line, tmp_path, alignment=alignment)
    graph = export_onnx(source, tmp_path / "model.onnx", ExportConfig(alignment=alignment)).model
    result = _built(graph, tmp_path, batch=(1, 2, 4))
    assert Manifest.read(result.model).alignment == alignment


@pytest.mark.parametrize("size", [256, 640])
def test_sizes_in_half_precision(size: int, small_line: Path, large_checkpoint: Path, tmp_path: Path) -> None:
    """At 640 the score's top 1 % is beyond TopK's limit: the bisection is built."""
    checkpoint = large_checkpoint if size == 640 else _trained(small_line, tmp_path, size=size)
    count = load_checkpoint(checkpoint).model.scorer.count
    assert (count > TOP_K_LIMIT) == (size == 640)
    graph = export_onnx(checkpoint, tmp_path / "model.onnx", ExportConfig(precision="fp16")).model
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    assert ("TopK" in kinds) == (size == 256)
    result = _built(graph, tmp_path)
    assert result.precision == "fp16"
    assert Manifest.read(result.model).input_hw == (size, size)


def test_the_cameras_frames_are_resized_in_the_engine(small_checkpoint: Path, tmp_path: Path) -> None:
    result = _built(small_checkpoint, tmp_path, frame_hw=(1080, 1920), precision="fp16", batch=(1, 1, 2))
    manifest = Manifest.read(result.model)
    assert (manifest.frame_hw, manifest.input_hw) == ((1080, 1920), (64, 64))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wide_resnet_of_the_paper_in_half_precision(small_line: Path, tmp_path: Path) -> None:
    """At the paper's size; in fp32 each base's own architecture is built in test_paper_architectures.py."""
    recipe: dict[str, Any] = {"recipe": "paper", "encoder_weights": "random", "device": "cpu"}
    recipe |= {"iterations": 1, "batch_size": 2, "aligner": {"iterations": 3, "batch_size": 2}}
    run = fit(index_dataset(small_line), tmp_path / "run", configure(recipe))
    (tmp_path / "run" / "state.pt").unlink()  # over a gigabyte of optimiser state
    assert load_checkpoint(run.checkpoint).config.encoder == "wide_resnet50_2.tv_in1k"
    result = _built(run.checkpoint, tmp_path)
    assert (result.precision, Manifest.read(result.model).input_hw) == ("fp16", (256, 256))
