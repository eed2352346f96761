"""INT8 engines: TensorRT for RTX builds explicit Q/DQ without a warning; nothing else passes for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from cada_edge.cli import main
from cada_edge.errors import BackendError, CheckFailedError, ConfigError
from cada_edge.export.build_thread import run_apart
from cada_edge.export.engine_builder import HARMLESS_WARNINGS, BuildRequest, Plan, build_plan
from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.export_result import ExportResult
from cada_edge.export.to_engine import export_engine
from cada_edge.manifest import Manifest

GraphOf = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("wide_limits")


@pytest.fixture
def quantised(int8_export: ExportResult) -> Path:
    """An INT8 file."""
    return int8_export.model


def _plan(model: Path, precision: str) -> Plan:
    request = BuildRequest(
        target="rtx", precision=precision, frame_hw=(64, 64), batch=(1, 1, 2), compute_capabilities=("8.9",)
    )
    return run_apart(lambda state: build_plan(model, request, state), None)


def test_it_is_built_without_a_warning(
    quantised: Path, graph_of: GraphOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert HARMLESS_WARNINGS == {}  # any warning of the parser ends the build
    arguments = ["export", quantised, "--format", "engine", "--target", "rtx", "--compute-capability", "8.9"]
    with caplog.at_level(logging.WARNING):
        result = CliRunner().invoke(
            main, [*map(str, arguments), "--out", str(tmp_path / "model.engine"), "--json"]
        )
    assert result.exit_code == 0, result.output
    assert "Defaulting to INT8" not in caplog.text + result.stderr
    printed = json.loads(result.stdout)
    manifest = Manifest.read(tmp_path / "model.engine")
    source = Manifest.read(quantised)
    assert (manifest.precision, printed["precision"]) == ("int8", "int8")
    assert manifest.quantization == source.quantization
    assert manifest.quantization is not None
    build = manifest.engine
    assert build is not None
    assert build.half_share == 0
    assert build.int8_share is not None
    # The convolutions in INT8 among all convolutions and products of the network.
    graph = onnx.load(quantised).graph
    heavy = sum(node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") for node in graph.node)
    assert build.int8_share == pytest.approx(manifest.quantization.int8_layers / heavy, abs=0.02)
    if not build.executed:
        assert build.precision_from == "network"
    # Weights of 8 bits are in the engine: it is far smaller than the fp32 one.
    whole = _plan(graph_of("revdist", "fp32"), "fp32")
    assert (tmp_path / "model.engine").stat().st_size < 0.6 * len(whole.data)
    assert whole.int8_share == 0


def test_unsigned_values_end_the_build(quantised: Path, tmp_path: Path) -> None:
    """What another quantiser would write: the library warns, and would saturate."""
    model = onnx.load(quantised)
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), tensor.name))
    onnx.save(model, tmp_path / "unsigned.onnx")
    with pytest.raises(BackendError, match=r"cannot parse .*unsigned.onnx: "):
        _plan(tmp_path / "unsigned.onnx", "int8")


def test_another_precision_does_not_pass_for_it(quantised: Path, graph_of: GraphOf) -> None:
    with pytest.raises(
        CheckFailedError, match=r"\d+ of \d+ .* compute with INT8 values; wanted none of them for fp32"
    ):
        _plan(quantised, "fp32")
    with pytest.raises(
        CheckFailedError, match=r"0 of \d+ .* compute with INT8 values; wanted some of them for int8"
    ):
        _plan(graph_of("revdist", "fp32"), "int8")


def test_from_an_fp32_file(graph_of: GraphOf, small_line: Path, tmp_path: Path) -> None:
    source = graph_of("revdist", "fp32")
    config = EngineConfig(
        target="rtx",
        compute_capabilities=("8.9",),
        precision="int8",
        calibration=small_line,
        calibration_images=16,
    )
    result = export_engine(source, tmp_path / "model.engine", config)
    manifest = Manifest.read(result.model)
    assert (result.precision, manifest.precision) == ("int8", "int8")
    assert manifest.quantization is not None
    assert manifest.quantization.images == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.engine",
        "model.engine.json",
        "model.engine.reference.npz",
    ]


def test_configurations_that_cannot_be(
    quantised: Path, graph_of: GraphOf, small_line: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.engine"

    def rtx(calibration: Path | None = None) -> EngineConfig:
        return EngineConfig(
            target="rtx", compute_capabilities=("8.9",), precision="int8", calibration=calibration
        )

    with pytest.raises(ConfigError, match=r"--precision int8 came .* fp32; .*, pass --calibration DIR, or"):
        export_engine(graph_of("revdist", "fp32"), out, rtx())
    with pytest.raises(ConfigError, match="--calibration came with --precision of the format; wanted it"):
        EngineConfig(calibration=small_line)
    with pytest.raises(ConfigError, match="is in int8 already; wanted an fp32 file"):
        export_engine(quantised, out, rtx(small_line))
    assert not list(tmp_path.iterdir())
