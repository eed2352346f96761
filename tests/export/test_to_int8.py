"""An INT8 export: what is written, what it records, what it refuses, and where it goes from there."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from cada_edge.cli import main
from cada_edge.cli_quantize import onnx_text
from cada_edge.errors import (
    BackendError,
    CheckFailedError,
    ConfigError,
    DatasetError,
    ManifestError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
)
from cada_edge.export import quantize, to_int8
from cada_edge.export.export_result import ExportResult
from cada_edge.export.speed_ratio import SpeedRatio
from cada_edge.export.to_int8 import Int8Config, export_int8
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.manifest import Manifest
from cada_edge.runtime.calibrate import calibrate
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.model_report import report_on
from cada_edge.runtime.parity import read_reference, score_limit, verify

GraphOf = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("wide_limits")


@pytest.fixture
def exported(graph_of: GraphOf, int8_export: ExportResult) -> tuple[Path, ExportResult]:
    """An fp32 file and its INT8 export."""
    return graph_of("revdist", "fp32"), int8_export


def test_what_is_written(exported: tuple[Path, ExportResult], small_line: Path) -> None:
    source, result = exported
    before, written = Manifest.read(source), Manifest.read(result.model)
    assert (written.precision, written.format) == ("int8", "onnx")
    written.check_model_file(result.model)
    assert (written.threshold, written.calibration) == (before.threshold, before.calibration)
    record = written.quantization
    assert record is not None
    assert (record.images, record.images_found) == (24, 24)
    assert (record.source, record.method) == (str(small_line), "minmax")
    assert record.fp32_layers[0] == "model.base.encoder.network.conv1.weight"
    assert 0.5 < record.int8_share < 1
    convolutions = [
        node for node in onnx.load(source).graph.node if node.op_type in ("Conv", "ConvTranspose")
    ]
    # All but the normalisation and the regressor's.
    assert record.int8_layers + len(record.fp32_layers) == len(convolutions) - 2
    reference = read_reference(result.reference)
    # The fixture's limits are fifty times as wide; the name here is the limit itself.
    assert result.parity.score_limit == pytest.approx(50 * score_limit("int8", reference))
    assert 0 < result.parity.max_score_difference <= result.parity.score_limit
    assert result.model.stat().st_size < 0.5 * source.stat().st_size
    assert [each.backend.split()[0] for each in result.speed] == ["openvino", "onnxruntime"]
    assert all(each.ratio > 0 and each.pairs >= 3 for each in result.speed)


def test_every_zero_point_is_int8_and_no_island_is_touched(exported: tuple[Path, ExportResult]) -> None:
    """Walk the graph: quantisers stand before convolutions of the networks and nowhere else."""
    source, result = exported
    original, model = onnx.load(source), onnx.load(result.model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = [constants[node.input[2]] for node in quantisers]
    assert len(zeros) > 20
    assert {zero.data_type for zero in zeros} == {TensorProto.INT8}
    assert not any(numpy_helper.to_array(zero).any() for zero in zeros)
    dequantised = {node.output[0] for node in quantisers if node.op_type == "DequantizeLinear"}
    before = {node.name: node for node in original.graph.node}
    changed = 0
    for node in model.graph.node:
        if node in quantisers:
            continue
        if dequantised & set(node.input):
            changed += 1
            assert node.op_type in ("Conv", "ConvTranspose")
            assert before[node.name].input[1].startswith("model.base.")
            # Input and weights; the bias is the fp32 one.
            assert [name in dequantised for name in node.input] == [True, True, False][: len(node.input)]
            assert list(node.input)[2:] == list(before[node.name].input)[2:]
        else:
            assert list(node.input) == list(before[node.name].input)
        assert list(node.output) == list(before[node.name].output)
    record = Manifest.read(result.model).quantization
    assert record is not None
    assert changed == record.int8_layers
    # Weights have a scale for each of their output channels, which a transposed convolution has second.
    weights = {node.output[0]: node for node in quantisers if node.input[0].endswith("_quantized")}
    assert len(weights) == changed
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in weights:
            quantiser = weights[node.input[1]]
            axis = 0 if node.op_type == "Conv" else 1
            assert [each.i for each in quantiser.attribute if each.name == "axis"] == [axis]
            scales, values = (constants[name] for name in (quantiser.input[1], quantiser.input[0]))
            assert list(scales.dims) == [values.dims[axis]]
            assert values.dims[axis] > 1


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_it_goes_the_whole_way(
    backend: str, exported: tuple[Path, ExportResult], small_line: Path, tmp_path: Path
) -> None:
    source, result = exported
    for path in (result.model, result.manifest, result.reference):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = tmp_path / result.model.name
    parity = verify(model, backend=backend)
    assert parity.backend.startswith(backend)
    assert parity.score_limit == result.parity.score_limit
    reference = read_reference(result.reference)
    with Detector(model, backend=backend) as detector, Detector(source, backend=backend) as whole:
        scores = [detector(frame).score for frame in reference.frames[:6]]
        wanted = [whole(frame).score for frame in reference.frames[:6]]
    assert scores != wanted
    np.testing.assert_allclose(scores, wanted, atol=parity.score_limit, rtol=parity.score_limit)
    kind = next(folder for folder in small_line.iterdir() if (folder / "train" / "good").is_dir())
    good = kind / "train" / "good"
    calibrated = calibrate(model, good, backend=backend)
    manifest = Manifest.read(model)
    assert manifest.threshold == calibrated.threshold
    assert manifest.quantization == Manifest.read(result.model).quantization
    report = report_on(model)
    assert "quantization" in report.to_text()
    assert report.to_dict()["quantization"]["images"] == 24


def test_from_a_checkpoint_by_the_command(
    checkpoint_of: Callable[[str], Path], small_line: Path, tmp_path: Path
) -> None:
    arguments = ["export", checkpoint_of("revdist"), "--precision", "int8", "--calibration", small_line]
    arguments += ["--calibration-images", 16, "--json", "--out", tmp_path / "model.onnx"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["quantization"]["images"], printed["quantization"]["images_found"]) == (16, 24)
    assert {each["backend"].split()[0] for each in printed["speed"]} == {"openvino", "onnxruntime"}
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.onnx", "model.onnx.json", "model.reference.npz"]
    assert Manifest.read(tmp_path / "model.onnx").precision == "int8"


def test_a_triton_repository_takes_it(
    exported: tuple[Path, ExportResult],
    checkpoint_of: Callable[[str], Path],
    small_line: Path,
    tmp_path: Path,
) -> None:
    run = CliRunner().invoke
    copied = ["export", exported[1].model, "--format", "triton", "--out", tmp_path / "models"]
    assert run(main, [str(each) for each in copied]).exit_code == 0
    model = tmp_path / "models" / "cada_edge" / "1" / "model.onnx"
    assert Manifest.read(model).precision == "int8"
    verify(model)
    refused = run(main, [str(each) for each in (*copied, "--calibration", small_line)])
    assert refused.exit_code == 2
    assert "--calibration came with" in refused.stderr


def test_the_text_for_people(exported: tuple[Path, ExportResult]) -> None:
    text = onnx_text(exported[1])
    assert "of all multiplications; 1 convolutions of the networks stay in fp32" in text
    assert "ranges     minmax of 24 of 24 good parts in" in text
    assert "x on openvino" in text
    assert "cada-edge calibrate model.onnx NEW_GOOD_PARTS" in text
    plain = onnx_text(dataclasses.replace(exported[1], quantization=None))
    assert plain.splitlines()[-1].startswith("threshold")


def test_an_engine_that_fails_is_not_timed_and_loses_nothing(
    exported: tuple[Path, ExportResult], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare_speed(*_: object, backends: tuple[str, ...], **__: object) -> tuple[SpeedRatio, ...]:
        if backends == ("openvino",):
            raise BackendError("OpenVINO refuses the file")
        return (SpeedRatio(backends[0], 30.0, 10.0, 3.0, 2.9, 3.1, 15),)

    monkeypatch.setattr(to_int8, "compare_speed", compare_speed)
    source, result = exported
    (found,) = to_int8._compare(source, result.model, read_reference(result.reference))
    assert found.backend == "onnxruntime"
    assert caplog.messages == ["openvino could not be timed: OpenVINO refuses the file"]


def test_a_slow_file_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    speed = (
        SpeedRatio("fast 1.0 CPU", 13.0, 10.0, 1.3, 1.2, 1.4, 5),
        SpeedRatio("slow 1.0 CPU", 10.0, 8.0, 1.25, 1.2, 1.3, 5),
    )
    with caplog.at_level(logging.WARNING, "cada_edge"):
        to_int8._tell(speed)
    assert [record.getMessage() for record in caplog.records] == [
        "INT8 is 1.25 times as fast as fp32 on slow 1.0 CPU here; wanted at least 1.3. Use the fp32 file "
        "there, or another backend."
    ]


def test_sources_that_cannot_be_quantised(
    exported: tuple[Path, ExportResult], graph_of: GraphOf, small_line: Path, tmp_path: Path
) -> None:
    config = Int8Config(small_line)
    source, result = exported
    with pytest.raises(ConfigError, match=r"model.onnx is in int8 already; wanted an fp32 file"):
        export_int8(result.model, tmp_path / "model.onnx", config)
    with pytest.raises(ConfigError, match=r"revdist_fp16.onnx is in fp16 already; .* --precision fp32"):
        export_int8(graph_of("revdist", "fp16"), tmp_path / "model.onnx", config)
    with pytest.raises(ModelNotFoundError, match="There is no model file at"):
        export_int8(tmp_path / "none.onnx", tmp_path / "model.onnx", config)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(source.read_bytes())
    with pytest.raises(ManifestError, match=r"alone.onnx has no manifest"):
        export_int8(alone, tmp_path / "model.onnx", config)
    Manifest.read(source).write(alone)
    with pytest.raises(ModelError, match="came without the reference file that its manifest describes"):
        export_int8(alone, tmp_path / "model.onnx", config)
    with pytest.raises(ConfigError, match=r"output model.bin came; wanted a name ending in .onnx"):
        export_int8(source, tmp_path / "model.bin", config)
    with pytest.raises(ConfigError, match=r"came as source and as output; .* Pass --out revdist_fp32-int8"):
        export_int8(source, source, config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.onnx", "alone.onnx.json"]


def test_calibration_belongs_to_int8(small_line: Path) -> None:
    with pytest.raises(ConfigError, match="int8 came without --calibration; wanted a folder of good parts"):
        Int8Config()
    for precision in ("fp32", "fp16"):
        with pytest.raises(ConfigError, match=f"--calibration came with --precision {precision}; wanted it"):
            ExportConfig(precision=precision, calibration=small_line)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--precision", "int8"], "--precision int8 came without --calibration"),
        (["--calibration", "."], "model.onnx came with --format onnx; .* quantise it, --precision int8"),
        (
            ["--precision", "int8", "--calibration", ".", "--alignment", "none"],
            "--alignment came with .*graph",
        ),
        (["--precision", "int8", "--calibration", ".", "--frame-size", "9x9"], "--frame-size came with"),
        (["--precision", "int8", "--calibration-images", "20"], "20 came without --calibration"),
        (["--format", "engine", "--calibration", "."], "--calibration came with --precision of the format"),
    ],
)
def test_commands_that_cannot_be(arguments: list[str], wanted: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(tmp_path / "model.onnx"), *arguments])
    assert result.exit_code == 2, result.output
    assert re.search(wanted, result.stderr)


def test_a_checkpoint_with_another_precision(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", "run.pt", "--calibration", str(tmp_path)])
    assert result.exit_code == 2
    assert "--calibration came with --precision fp32; wanted it with int8 only" in result.stderr


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str, graph_of: GraphOf, small_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "cada_edge.extras.find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=f"Quantising needs the package '{package}'"):
        export_int8(graph_of("revdist", "fp32"), tmp_path / "model.onnx", Int8Config(small_line))


def test_over_the_limit_nothing_is_written(
    graph_of: GraphOf, small_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"older")
    monkeypatch.setattr(quantize, "SMALLEST_SHARE", 0.999)
    with pytest.raises(
        CheckFailedError, match=r"could compute in INT8 before any is left out; .*--precision fp16"
    ):
        export_int8(graph_of("revdist", "fp32"), tmp_path / "model.onnx", Int8Config(small_line))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_uniad_gains_too_little(graph_of: GraphOf, small_line: Path, tmp_path: Path) -> None:
    """Its transformer is most of its work, and only the encoder has convolutions."""
    with pytest.raises(CheckFailedError, match=r"14 convolutions with 4\d% of the model's multiplications"):
        export_int8(graph_of("uniad", "fp32"), tmp_path / "model.onnx", Int8Config(small_line))


def test_too_few_images(graph_of: GraphOf, small_line: Path, tmp_path: Path) -> None:
    few = next(small_line.glob("*/test/good"))
    with pytest.raises(
        DatasetError, match="has 2 images of good parts to calibrate with; wanted at least 16"
    ):
        export_int8(graph_of("revdist", "fp32"), tmp_path / "model.onnx", Int8Config(few))


def test_the_drift_is_measured_against_the_fp32_file(
    graph_of: GraphOf, small_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.export import auroc_drift
    from cada_edge.runtime.datasets import index_dataset

    monkeypatch.setattr(auroc_drift, "_IMAGES", 4)
    # Of 4 + 4 images one pair that changes its order is 6.25 points.
    monkeypatch.setitem(auroc_drift._LIMITS_POINTS, "int8", 50.0)
    data = index_dataset(small_line)
    source = graph_of("revdist", "fp32")
    result = export_int8(source, tmp_path / "model.onnx", Int8Config(small_line), data=data)
    assert result.parity.auroc_drift is not None
    swaps = result.parity.auroc_drift / 3.125  # a tie is half of one
    assert swaps == pytest.approx(round(swaps))
    assert result.parity.auroc_drift_reason is None
    manifest = Manifest.read(result.model)
    assert manifest.parity == dataclasses.replace(result.parity)
    # At its limit a drift is refused, and nothing is written.
    monkeypatch.setitem(auroc_drift._LIMITS_POINTS, "int8", result.parity.auroc_drift)
    with pytest.raises(CheckFailedError, match="AUROC of the exported file differs from PyTorch's by"):
        export_int8(source, tmp_path / "refused.onnx", Int8Config(small_line), data=data)
    assert not list(tmp_path.glob("refused*"))


@pytest.mark.slow
def test_camera_frames(checkpoint_of: Callable[[str], Path], small_line: Path, tmp_path: Path) -> None:
    config = ExportConfig(
        precision="int8",
        calibration=small_line,
        calibration_images=16,
        frame_hw=(96, 128),
        backend="onnxruntime",
    )
    result = export_onnx(checkpoint_of("revdist"), tmp_path / "model.onnx", config)
    manifest = Manifest.read(result.model)
    assert (manifest.frame_hw, manifest.precision) == ((96, 128), "int8")
