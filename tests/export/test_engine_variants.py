"""Every kind of graph that can be exported is built by TensorRT for RTX itself, for three GPUs at once.

The choices of an export go together in 192 ways. What one of them breaks, or two of them together, is found
by these few builds: each choice meets each other one at least once. All bases in both precisions with a
dynamic batch are built in test_to_engine.py as well, from larger encoders, and the paper's own architectures
in test_paper_architectures.py.
"""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from cada_edge.export import to_onnx
from cada_edge.export.build_thread import BuildProgress
from cada_edge.export.engine_builder import BuildRequest, build_plan
from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.graph import FusedGraph
from cada_edge.export.to_engine import EngineResult, export_engine
from cada_edge.files import sha256_file
from cada_edge.manifest import ALIGNMENTS, PRECISIONS, Manifest
from cada_edge.trainer.aligner import build_aligner
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.config import BASES
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.scoring import TOP_K_LIMIT

pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")

CAPABILITIES = ("8.6", "8.9", "12.0")
CAMERA = (1080, 1920)


class Variant(NamedTuple):
    """One build."""

    base: str
    alignment: str
    precision: str
    size: int
    frame_hw: tuple[int, int] | None
    batch: tuple[int, int, int]


VARIANTS = (
    Variant("revdist", "none", "fp32", 640, None, (1, 2, 4)),
    Variant("revdist", "cada", "fp16", 256, None, (1, 1, 1)),
    Variant("revdist", "cada-sigma", "fp16", 256, None, (1, 2, 4)),
    Variant("revdist", "class-predicted", "fp16", 640, CAMERA, (1, 1, 1)),
    Variant("recontrast", "none", "fp16", 256, CAMERA, (1, 2, 4)),
    Variant("recontrast", "cada", "fp16", 256, None, (1, 2, 4)),
    Variant("recontrast", "cada-sigma", "fp16", 640, CAMERA, (1, 1, 1)),
    Variant("recontrast", "class-predicted", "fp32", 256, None, (1, 2, 4)),
    Variant("uniad", "none", "fp32", 256, None, (1, 1, 1)),
    Variant("uniad", "cada", "fp32", 640, CAMERA, (1, 1, 1)),
    Variant("uniad", "cada-sigma", "fp32", 256, None, (1, 2, 4)),
    Variant("uniad", "class-predicted", "fp16", 256, None, (1, 2, 4)),
)


@pytest.fixture(autouse=True)
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, also where there is one."""
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")


def test_each_choice_meets_each_other_one() -> None:
    choices = (
        tuple(BASES),
        ALIGNMENTS,
        [name for name in PRECISIONS if name != "int8"],
        (256, 640),
        (None, CAMERA),
        ((1, 1, 1), (1, 2, 4)),
    )
    wanted = {
        (one, two, pair)
        for one, two in combinations(range(len(choices)), 2)
        for pair in product(choices[one], choices[two])
    }
    built = {
        (one, two, (row[one], row[two])) for row in VARIANTS for one, two in combinations(range(len(row)), 2)
    }
    assert built == wanted


def _untrained(variant: Variant) -> TrainedModel:
    """A model of small networks with random weights: what is built depends on its operators and shapes."""
    values = {"base": variant.base, "alignment": variant.alignment, "size": variant.size}
    config = configure({**values, "encoder": "mobilenetv3_small_100", "encoder_weights": "random"})
    model, _ = build_model(config, encoder_weights="random")
    if variant.alignment != "none":
        table = {"screw": (0.1, 0.5), "gear": (0.2, 0.9)}
        channels = model.base.bottleneck_channels
        model.regressor = build_aligner(variant.alignment, channels, config.aligner, table)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda row: "-".join(map(str, row[:4])))
def test_it_is_built(variant: Variant, tmp_path: Path) -> None:
    model = _untrained(variant)
    path = tmp_path / "model.onnx"
    to_onnx._write_graph(FusedGraph(model, precision=variant.precision, frame_hw=variant.frame_hw), path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    # At 640 the score's top 1 % is beyond TopK's limit: the bisection is built.
    assert (model.scorer.count > TOP_K_LIMIT) == (variant.size == 640)
    assert ("TopK" in kinds) == (variant.size == 256)
    assert ("ArgMax" in kinds) == (variant.alignment == "class-predicted")
    frame_hw = variant.frame_hw or (variant.size, variant.size)
    request = BuildRequest("rtx", variant.precision, frame_hw, variant.batch, CAPABILITIES)
    plan = build_plan(path, request, BuildProgress())
    assert len(plan.data) > 100_000
    assert (plan.half_share > 0.5) == (variant.precision == "fp16")


def _built(source: Path, folder: Path, **changes: Any) -> EngineResult:
    config = EngineConfig(**{"target": "rtx", "compute_capabilities": CAPABILITIES, **changes})
    result = export_engine(source, folder / "model.engine", config)
    manifest = Manifest.read(result.model)
    assert manifest.model_sha256 == sha256_file(result.model)
    assert manifest.engine == result.engine
    assert result.parity.max_score_difference <= result.parity.score_limit
    return result


def test_the_cameras_frames_are_resized_in_the_engine(small_checkpoint: Path, tmp_path: Path) -> None:
    """The whole way: reference file, parity and manifest are of the camera's frames."""
    result = _built(small_checkpoint, tmp_path, frame_hw=CAMERA, precision="fp16", batch=(1, 1, 2))
    manifest = Manifest.read(result.model)
    assert (manifest.frame_hw, manifest.input_hw) == (CAMERA, (64, 64))


def test_large_images_in_half_precision(large_checkpoint: Path, tmp_path: Path) -> None:
    """The whole way at 640, with the bisection."""
    result = _built(large_checkpoint, tmp_path)
    assert result.precision == "fp16"
    assert Manifest.read(result.model).input_hw == (640, 640)
