"""What stands between an engine and its GPU: modules, driver, options; each with its remedy."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cada_edge import Detector
from cada_edge.cli import main
from cada_edge.errors import BackendError, ConfigError, CudaError, MissingExtraError
from cada_edge.manifest import Manifest
from cada_edge.runtime import tensorrt_engine


@pytest.mark.parametrize(
    ("name", "version"),
    [("tensorrt", "10.2.0"), ("tensorrt", "8.6.1"), ("tensorrt", "12.0.0"), ("tensorrt_rtx", "1.2.0")],
)
def test_versions_outside_the_supported_range_are_refused(
    make_tensorrt_double: Callable[..., Any], name: str, version: str
) -> None:
    make_tensorrt_double(name, version)
    target = {module: target for target, module in tensorrt_engine.MODULES.items()}[name]
    with pytest.raises(BackendError, match=rf"{name} {version} is installed; wanted one from .* and below"):
        tensorrt_engine.load_tensorrt(target)


@pytest.mark.parametrize(("target", "package"), [("tensorrt", "tensorrt"), ("rtx", "tensorrt-rtx")])
def test_a_missing_module_names_its_package(
    monkeypatch: pytest.MonkeyPatch, target: str, package: str
) -> None:
    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt_engine, "_JETSON", Path("/nowhere"))
    with pytest.raises(MissingExtraError, match=rf"'{package}', .*cada-edge\[{target}\]"):
        tensorrt_engine.load_tensorrt(target)


def test_on_a_jetson_the_module_comes_with_jetpack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt_engine, "_JETSON", tmp_path)
    with pytest.raises(BackendError, match=r"comes with JetPack.*--system-site-packages"):
        tensorrt_engine.load_tensorrt("tensorrt")


def test_a_module_without_its_libraries_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: True)
    monkeypatch.setattr(tensorrt_engine, "import_module", broken)
    with pytest.raises(BackendError, match=r"tensorrt is installed and cannot be imported: libnvinfer"):
        tensorrt_engine.load_tensorrt("tensorrt")


def test_without_a_driver_the_detector_says_what_to_do(
    tmp_path: Path, tiny_model: Path, as_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.files import sha256_file

    engine = as_engine(tiny_model)
    engine.write_bytes(b"no plan at all")
    dataclasses.replace(Manifest.read(engine), model_sha256=sha256_file(engine)).write(engine)
    real = ctypes.CDLL

    def without_cuda(name: str, *rest: Any, **options: Any) -> Any:
        if "cuda" in str(name):
            raise OSError("libcuda.so.1: cannot open shared object file")
        return real(name, *rest, **options)

    monkeypatch.setattr(ctypes, "CDLL", without_cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    detector = Detector(engine)
    for _ in range(2):
        with pytest.raises(CudaError, match=r"There is no CUDA driver.*run the \.onnx model instead"):
            detector.open()
    detector.close()


def test_the_command_line_exits_with_3_without_a_driver(
    tiny_engine: Path, put_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")
    image = put_image(tiny_engine.parent / "part.png")
    result = CliRunner().invoke(main, ["predict", str(tiny_engine), str(image)])
    assert result.exit_code == 3
    assert "There is no CUDA driver" in result.output


def test_the_manifest_of_an_engine_is_shown(tiny_engine: Path) -> None:
    from click.testing import CliRunner

    shown = json.loads(CliRunner().invoke(main, ["inspect", str(tiny_engine), "--json"]).output)
    assert shown["engine"]["compute_capabilities"] == ["8.7"]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"backend": "onnxruntime"}, "backend 'onnxruntime' came with tiny.engine"),
        ({"backend": "openvino"}, "backend 'openvino' came with tiny.engine"),
        ({"threads": 2}, "threads = 2 came with tiny.engine"),
    ],
)
def test_an_engine_never_runs_on_the_cpu(tiny_engine: Path, options: dict[str, Any], asked: str) -> None:
    with pytest.raises(ConfigError, match=f"{asked}, which runs on the GPU alone.*load the .onnx model"):
        Detector(tiny_engine, **options)


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"backend": "tensorrt"}, "backend 'tensorrt'"), ({"score_only": True}, "score_only")],
)
def test_an_onnx_file_is_no_engine(tiny_model: Path, options: dict[str, Any], asked: str) -> None:
    with pytest.raises(ConfigError, match=f"{asked} came with tiny.onnx; wanted an engine.*--format engine"):
        Detector(tiny_model, **options)


@pytest.mark.gpu
def test_the_real_library_refuses_a_damaged_plan(tmp_path: Path) -> None:
    from cada_edge.runtime.cuda_calls import choose_calls
    from cada_edge.runtime.cuda_device import CudaDevice

    plan = tmp_path / "damaged.engine"
    plan.write_bytes(b"no plan at all" * 100)
    targets = [name for name, module in tensorrt_engine.MODULES.items() if find_spec(module)]
    if not targets:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")
    device = CudaDevice(choose_calls())
    device.open()
    for target in targets:
        with device.current(), pytest.raises(BackendError, match="cannot"):
            tensorrt_engine.TensorRTEngine(target, plan, rebuild="cada-edge export")
    device.close()
