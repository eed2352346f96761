"""Every kind of graph that can be exported is built by TensorRT for RTX itself, for three GPUs at once.

The choices of an export go together in 192 ways. What one of them breaks, or two of them together, is found
by these few builds: each choice meets each other one at least once. All bases in both precisions with a
dynamic batch are built in test_to_engine.py as well, from larger encoders.
"""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.to_engine import EngineResult, export_engine
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.files import sha256_file
from cada_edge.manifest import ALIGNMENTS, PRECISIONS, Manifest
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES
from cada_edge.trainer.fit import fit
from cada_edge.trainer.scoring import TOP_K_LIMIT
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

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


@pytest.fixture(scope="module")
def tiny_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few images of two kinds, which each run brings to its own size."""
    config = SyntheticConfig(
        size=64, train_per_kind=4, test_normal_per_kind=1, test_anomalous_per_kind=1, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "tiny", config)


def _trained(line: Path, folder: Path, **changes: Any) -> Path:
    values = {"encoder": "mobilenetv3_small_100", "encoder_weights": "random", "device": "cpu"}
    values |= {"iterations": 1, "batch_size": 2, "aligner": {"iterations": 30, "batch_size": 4}}
    return fit(index_dataset(line), folder / "run", configure({**values, **changes})).checkpoint


def _built(source: Path, folder: Path, **changes: Any) -> EngineResult:
    config = EngineConfig(**{"target": "rtx", "compute_capabilities": CAPABILITIES, **changes})
    result = export_engine(source, folder / "model.engine", config)
    manifest = Manifest.read(result.model)
    assert manifest.model_sha256 == sha256_file(result.model)
    assert manifest.engine == result.engine
    assert result.engine.compute_capabilities == CAPABILITIES
    assert result.parity.max_score_difference <= result.parity.score_limit
    return result


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda row: "-".join(map(str, row[:4])))
def test_it_is_built(variant: Variant, tiny_line: Path, tmp_path: Path) -> None:
    checkpoint = _trained(
        tiny_line, tmp_path, base=variant.base, alignment=variant.alignment, size=variant.size
    )
    config = ExportConfig(precision=variant.precision, backend="onnxruntime", frame_hw=variant.frame_hw)
    graph = export_onnx(checkpoint, tmp_path / "model.onnx", config).model
    kinds = {node.op_type for node in onnx.load(graph).graph.node}
    # At 640 the score's top 1 % is beyond TopK's limit: the bisection is built.
    assert (load_checkpoint(checkpoint).model.scorer.count > TOP_K_LIMIT) == (variant.size == 640)
    assert ("TopK" in kinds) == (variant.size == 256)
    result = _built(graph, tmp_path, batch=variant.batch)
    manifest = Manifest.read(result.model)
    assert (manifest.base, manifest.alignment, manifest.precision) == variant[:3]
    assert (manifest.input_hw, manifest.frame_hw) == ((variant.size, variant.size), variant.frame_hw)
    assert result.engine.batch == variant.batch
    assert result.engine.half_share is not None
    assert (result.engine.half_share > 0.5) == (variant.precision == "fp16")


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
