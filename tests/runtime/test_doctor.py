"""The doctor: each part is found, or missing with the way to get it."""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cada_edge.cli import main
from cada_edge.runtime import doctor, tensorrt_engine
from cada_edge.runtime.doctor import Finding, examine

BUILD = """
  Video I/O:
    FFMPEG:                      {ffmpeg}
      avcodec:                   YES (59.37.100)
    GStreamer:                   {gstreamer}
"""


def _named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing but Python and NumPy; an empty root of its file system."""
    blocked = ("cv2", "onnxruntime", "openvino", "cuda.bindings.driver", "pycuda.driver")
    for module in blocked:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: None)
    monkeypatch.setattr(tensorrt_engine, "_JETSON", tmp_path / "nowhere")
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")
    return tmp_path


def test_a_bare_machine_is_told_how_to_get_everything(bare: Path) -> None:
    found = _named(examine(bare))
    assert {name for name, finding in found.items() if finding.found} == {"cada-edge", "NumPy"}
    remedies = {name: finding.remedy or "" for name, finding in found.items() if not finding.found}
    assert "opencv-python-headless" in remedies["OpenCV"]
    assert "cada-edge[cpu]" in remedies["ONNX Runtime"]
    assert "NVIDIA driver" in remedies["CUDA driver"]
    assert "cada-edge[tensorrt]" in remedies["TensorRT"]
    assert "cada-edge[rtx]" in remedies["TensorRT for RTX"]
    assert "cada-edge[jetson]" in remedies["PyCUDA"]
    assert "cada-edge[cpu]" in remedies["runs .onnx"]
    assert "cada-edge[tensorrt]" in remedies["runs .engine"]
    assert all(remedies.values())


def test_a_machine_with_a_gpu(
    cuda_double: Any,
    make_tensorrt_double: Callable[..., Any],
    bare: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda.so.1")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", cuda_double)
    monkeypatch.setattr(tensorrt_engine, "find_spec", lambda name: name == "tensorrt" or None)
    make_tensorrt_double("tensorrt", "10.3.0")
    _put_opencv(monkeypatch)
    found = _named(examine(bare))
    assert found["CUDA driver"].detail == "supports CUDA up to 12.6"
    assert found["GPU"].detail == "Double GPU 0 (compute capability 8.7)"
    assert found["TensorRT"].detail == "10.3.0"
    assert found["cuda-bindings"].found
    assert found["runs .engine"].found
    assert not found["runs .onnx"].found
    assert not found["TensorRT for RTX"].found
    assert cuda_double.held() == 0
    # All but the GPU: no package is what is missing.
    monkeypatch.setattr("cada_edge.runtime.cuda_driver._LIBRARY", "libcuda-of-no-machine.so")
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    found = _named(examine(bare))
    assert (found["runs .engine"].found, found["runs .engine"].remedy) == (False, "see GPU")


def _no_library(name: str, *rest: Any, **options: Any) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def _put_opencv(monkeypatch: pytest.MonkeyPatch, *, ffmpeg: str = "YES", gstreamer: str = "NO") -> None:
    text = BUILD.format(ffmpeg=ffmpeg, gstreamer=gstreamer)
    module = SimpleNamespace(__version__="4.8.1", getBuildInformation=lambda: text)
    monkeypatch.setitem(sys.modules, "cv2", module)


def test_a_package_without_metadata(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace())
    monkeypatch.setattr(doctor, "version", _no_metadata)
    assert _named(examine(bare))["OpenVINO"] == Finding("OpenVINO", True, "installed without metadata")


def _no_metadata(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize("gstreamer", ["NO", "YES (1.20.3)"])
def test_how_opencv_was_built(bare: Path, monkeypatch: pytest.MonkeyPatch, gstreamer: str) -> None:
    _put_opencv(monkeypatch, gstreamer=gstreamer)
    found = _named(examine(bare))
    assert found["OpenCV"].detail == "4.8.1"
    assert found["OpenCV with FFmpeg"] == Finding("OpenCV with FFmpeg", True, "YES")
    assert found["OpenCV with GStreamer"].found == (gstreamer != "NO")
    if gstreamer == "NO":
        assert "csi://" in (found["OpenCV with GStreamer"].remedy or "")


def test_an_opencv_built_for_numpy_1_is_explained(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str) -> Any:
        if name == "cv2":
            raise AttributeError("_ARRAY_API not found")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert "pip install 'numpy<2'" in (_named(examine(bare))["OpenCV"].remedy or "")


@pytest.fixture
def jetson(bare: Path) -> Path:
    """The root of a Jetson's file system."""
    (bare / "etc").mkdir()
    release = "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n"
    (bare / "etc/nv_tegra_release").write_text(release)
    (bare / "proc/device-tree").mkdir(parents=True)
    (bare / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    return bare


def test_a_jetson(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = subprocess.CompletedProcess(["nvpmodel", "-q"], 0, "NV Power Mode: MAXN_SUPER\n2\n", "")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: said)
    found = _named(examine(jetson))
    wanted = "NVIDIA Jetson Orin Nano Developer Kit, R36 (release), REVISION: 4.0"
    assert found["Jetson"].detail == wanted
    assert found["power mode"].detail == "MAXN_SUPER"
    assert "cada-edge[jetson]" in (found["runs .engine"].remedy or "")


@pytest.mark.parametrize("answer", ["no such command", "needs root"])
def test_a_jetson_that_does_not_tell_its_power_mode(
    jetson: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        if answer == "no such command":
            raise FileNotFoundError(answer)
        return subprocess.CompletedProcess(command, 1, "", answer)

    monkeypatch.setattr(subprocess, "run", run)
    mode = _named(examine(jetson))["power mode"]
    assert not mode.found
    assert answer in mode.detail
    assert "sudo nvpmodel" in (mode.remedy or "")


def test_the_command_prints_lines_or_json() -> None:
    text = CliRunner().invoke(main, ["doctor"])
    assert text.exit_code == 0
    assert "ok      cada-edge" in text.output
    printed = CliRunner().invoke(main, ["doctor", "--json"])
    findings = json.loads(printed.output)["findings"]
    assert [finding["name"] for finding in findings][:2] == ["cada-edge", "NumPy"]
    for finding in findings:
        assert finding["found"] == (finding["remedy"] is None)
