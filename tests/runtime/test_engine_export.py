"""Export to an engine on a machine with a GPU, against doubles.

The double of the build gives the double's plan; the doubles of TensorRT and of the CUDA driver run it with
ONNX Runtime.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import gpu_check
from cada_edge.benchmarks.gpu_outcomes import perform
from cada_edge.errors import BackendError, CheckFailedError, MissingExtraError, OutputError
from cada_edge.export import to_engine
from cada_edge.export.engine_builder import BuildRequest, Plan
from cada_edge.export.engine_config import EngineConfig
from cada_edge.export.to_engine import export_engine
from cada_edge.manifest import Manifest


class BuilderDouble:
    """Double of `build_plan`: the double's plan of an ONNX file is the file."""

    def __init__(self) -> None:
        self.requests: list[BuildRequest] = []
        self.version = "10.3.0"
        self.data: bytes | None = None
        """What to give instead of the file's content."""

    def __call__(self, model: Path, request: BuildRequest, state: Any) -> Plan:
        self.requests.append(request)
        cache = None if request.timing_cache is None else request.timing_cache + b"+measured"
        return Plan(self.data or model.read_bytes(), self.version, 0.0, 0.0, cache)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> BuilderDouble:
    double = BuilderDouble()
    monkeypatch.setattr(to_engine, "build_plan", double)
    return double


def _information(*formats: str) -> str:
    layers = [{"Name": text, "LayerType": "kgen", "Outputs": [{"Format/Datatype": text}]} for text in formats]
    return json.dumps({"Layers": layers})


def test_the_engine_itself_is_checked(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    tensorrt_double.information = _information("Float", "Int64")
    config = EngineConfig(batch=(1, 2, 4), hardware_compatibility="ampere+", workspace_gib=0.5)
    result = export_engine(tiny_model, tmp_path / "line.engine", config)
    build = result.engine
    assert build.executed
    assert build.gpu is not None
    assert build.gpu.endswith("GPU 0")
    assert (build.compute_capabilities, build.hardware_compatibility) == (("8.7",), "ampere+")
    assert (build.precision_from, build.half_share, build.int8_share) == ("inspector", 0, 0)
    assert result.parity.backend.startswith("tensorrt 10.3.0 Double GPU")
    assert Manifest.read(result.model).parity == result.parity
    (request,) = builder.requests
    assert (request.frame_hw, request.compute_capabilities) == ((16, 16), ())
    assert (request.workspace_bytes, request.timing_cache) == (1 << 29, None)
    assert tensorrt_double.alive == []


def test_an_inspector_that_tells_no_precision_leaves_the_networks(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    tensorrt_double.information = '{"Layers": ["all of it"]}'
    build = export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4))).engine
    assert (build.precision_from, build.half_share, build.executed) == ("network", 0, True)


def test_an_engine_of_another_precision_is_refused(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    tensorrt_double.information = _information("Float", "Half", "Half", "Float")
    with pytest.raises(
        CheckFailedError,
        match=r"finds 50% of the layers of line.engine in half precision; wanted none for fp32",
    ):
        export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4)))
    assert list(tmp_path.glob("line*")) == []
    with pytest.raises(CheckFailedError, match=r"finds 0% .*; wanted some for fp16"):
        to_engine._require_precision(0.0, "fp16", "fp16", tiny_model)
    tensorrt_double.information = _information("Float", "Int8")
    with pytest.raises(CheckFailedError, match=r"finds 50% .* in INT8; wanted none for fp32"):
        export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4)))
    with pytest.raises(CheckFailedError, match=r"finds 0% .* in INT8; wanted some for int8"):
        to_engine._require_precision(0.0, "int8", "int8", tiny_model)
    to_engine._require_precision(0.3, "int8", "int8", tiny_model)


def test_an_engine_with_other_scores_is_refused(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(tiny_model)
    (white,) = (each for each in model.graph.initializer if each.name == "white")
    whiter = np.array(1.01 * numpy_helper.to_array(white), np.float32)
    white.CopyFrom(numpy_helper.from_array(whiter, "white"))
    builder.data = model.SerializeToString()
    with pytest.raises(CheckFailedError, match=r"Parity failed on tensorrt 10\.3\.0 Double GPU"):
        export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4)))
    assert list(tmp_path.glob("*line*")) == []


def test_an_engine_for_other_gpus_is_checked_by_its_graph(
    tiny_model: Path,
    builder: BuilderDouble,
    make_tensorrt_double: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_tensorrt_double("tensorrt_rtx", "1.7.1.116")
    builder.version = "1.7.1.116"
    monkeypatch.setattr(to_engine, "known_capabilities", lambda target: ("8.6", "8.7", "8.9"))
    config = EngineConfig(target="rtx", compute_capabilities=("8.6", "8.9", "8.6"))
    with caplog.at_level(logging.INFO):
        result = export_engine(tiny_model, tmp_path / "line.engine", config)
    assert not result.engine.executed
    assert result.engine.compute_capabilities == ("8.6", "8.9") == builder.requests[0].compute_capabilities
    assert result.parity.backend.startswith("onnxruntime")
    assert "was built for compute capability 8.6, 8.9; this machine's" in caplog.text
    # Without a list it is for this machine's GPU, and is run on it.
    result = export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(target="rtx", batch=(1, 2, 4)))
    assert (result.engine.compute_capabilities, result.engine.executed) == (("8.7",), True)


def test_what_runs_the_engine_is_asked_for_before_the_build(
    tiny_model: Path,
    builder: BuilderDouble,
    tensorrt_double: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("cuda.bindings.driver", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtraError, match="Running a TensorRT engine needs the package 'cuda-bindings'"
    ):
        export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4)))
    assert builder.requests == []


def test_an_engine_that_does_not_run_where_it_was_built_is_refused(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    builder.version = "10.3.1"  # another library built it than the one that is found
    with pytest.raises(BackendError, match=r"built with tensorrt 10\.3\.1; this machine has 10\.3\.0"):
        export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4)))
    assert list(tmp_path.glob("*line*")) == []


def test_the_timing_cache_goes_from_build_to_build(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "timing.bin"
    config = EngineConfig(batch=(1, 2, 4), timing_cache=cache)
    for wanted in (b"+measured", b"+measured+measured"):
        result = export_engine(tiny_model, tmp_path / "line.engine", config)
        assert cache.read_bytes() == wanted
    assert [request.timing_cache for request in builder.requests] == [b"", b"+measured"]
    assert result.engine.options["timing_cache"] is True


def test_a_timing_cache_that_cannot_be_kept_costs_no_engine(
    tiny_model: Path,
    builder: BuilderDouble,
    tensorrt_double: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = tmp_path / "cache" / "timing.bin"
    config = EngineConfig(batch=(1, 2, 4), timing_cache=cache)

    def build(model: Path, request: BuildRequest, state: Any) -> Plan:
        cache.parent.write_text("a file where the folder was to be")
        return builder(model, request, state)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(to_engine, "build_plan", build)
        result = export_engine(tiny_model, tmp_path / "line.engine", config)
    Manifest.read(result.model).check_model_file(result.model)
    assert "The engine is built, but the next build measures anew. Cannot write" in caplog.text


def test_a_place_that_takes_no_file(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("taken")
    with pytest.raises(
        OutputError, match=r"Cannot write .*line.engine: .*or choose another folder with --out"
    ):
        export_engine(tiny_model, tmp_path / "file" / "line.engine", EngineConfig(batch=(1, 2, 4)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_the_graphs_drift_is_kept(
    tiny_model: Path, builder: BuilderDouble, tensorrt_double: Any, tmp_path: Path
) -> None:
    import dataclasses

    from cada_edge.runtime.parity import verify

    verify(tiny_model)
    manifest = Manifest.read(tiny_model)
    assert manifest.parity is not None
    drifted = dataclasses.replace(manifest.parity, auroc_drift=0.05, auroc_drift_reason=None)
    dataclasses.replace(manifest, parity=drifted).write(tiny_model)
    parity = export_engine(tiny_model, tmp_path / "line.engine", EngineConfig(batch=(1, 2, 4))).parity
    assert (parity.auroc_drift, parity.auroc_drift_reason) == (0.05, None)


def test_the_gpu_check_takes_an_exported_file_in_pytorchs_place(
    tiny_model: Path,
    builder: BuilderDouble,
    tensorrt_double: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a Jetson, where it is the acceptance test of an installation."""
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = gpu_check.checks(tmp_path, quick=True, model=tiny_model)
    trained = perform("train.revdist", checks["train.revdist"])
    assert (trained.state, trained.reason[:27]) == ("not possible", "PyTorch is not installed (i")
    ended = perform("engine.tensorrt", checks["engine.tensorrt"])
    assert (ended.state, ended.reason) == ("ok", "")
    figures = ended.figures
    assert figures["backend"].startswith("tensorrt 10.3.0 Double GPU (")
    assert figures["backend"].endswith(", CUDA graph)")
    assert figures["model"] == "{0.base} {0.encoder}, {0.precision}".format(Manifest.read(tiny_model))
    assert figures["difference"] <= figures["limit"] == 1e-4
    assert figures["batch_1_with_transfers"]["n"] >= 10
    assert [request.target for request in builder.requests] == ["tensorrt"]
    # Without either there is nothing to build from, and it says what to give.
    ended = perform("engine.tensorrt", gpu_check.checks(tmp_path, quick=True)["engine.tensorrt"])
    assert ended.reason == (
        "the check train.revdist left no checkpoint, which takes PyTorch; pass an exported file with --model."
    )


def test_the_gpu_check_refuses_what_no_engine_is_built_from(tiny_engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "box.json"
    for model, wanted in (
        (tiny_engine, "is of the format 'engine'; wanted the ONNX file that engines are built from"),
        (tmp_path / "none.onnx", "There is no model file at"),
    ):
        result = CliRunner().invoke(gpu_check.main, ["--out", str(out), "--model", str(model)])
        assert result.exit_code == 2
        assert wanted in result.output
    assert not out.exists()
