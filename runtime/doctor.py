"""What this machine has for running models: each part found, or how to get it."""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cada_edge import __version__
from cada_edge.errors import CadaEdgeError
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_driver import gpus, require_gpu
from cada_edge.runtime.tensorrt_engine import load_tensorrt

__all__ = ["Finding", "examine", "jetson_findings"]


@dataclass(frozen=True)
class Finding:
    """One part of the machine."""

    name: str
    """What was looked for."""
    found: bool
    """Whether it is there and can be used."""
    detail: str
    """Version or description; where it is missing, what that means."""
    remedy: str | None = None
    """How to get it; None where it is there."""

    def __str__(self) -> str:
        line = f"{'ok' if self.found else 'missing':8}{self.name:22}{self.detail}"
        return line if self.remedy is None else f"{line}\n{'':30}{self.remedy}"


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything that the runtime may use. Nothing is changed, and no GPU memory is taken.

    Args:
        root: Of the file system, where a Jetson describes itself.

    Returns:
        One finding per part, in a fixed order; the Jetson's only on a Jetson.
    """
    own = f"{__version__}, Python {platform.python_version()}, {platform.machine()}"
    findings = [
        Finding("cada-edge", True, own),
        _package("NumPy", "numpy", "pip install numpy"),
        *_opencv(),
        _package("ONNX Runtime", "onnxruntime", "pip install 'cada-edge[cpu]'"),
        _package("OpenVINO", "openvino", "pip install 'cada-edge[cpu]'"),
        *_gpus(),
        _ask("TensorRT", lambda: str(load_tensorrt("tensorrt").__version__)),
        _ask("TensorRT for RTX", lambda: str(load_tensorrt("rtx").__version__)),
        _ask("cuda-bindings", lambda: choose_calls("cuda-bindings").binding),
        _ask("PyCUDA", lambda: choose_calls("pycuda").binding),
        *jetson_findings(root),
    ]
    return [*findings, *_verdicts({finding.name: finding for finding in findings})]


def _package(name: str, module: str, remedy: str) -> Finding:
    try:
        importlib.import_module(module)
        return Finding(name, True, version(module))
    except PackageNotFoundError:
        return Finding(name, True, "installed without metadata")
    except (ImportError, OSError) as error:
        return Finding(name, False, f"cannot be imported: {error}", remedy)


def _ask(name: str, question: Callable[[], str]) -> Finding:
    """Ask what raises our errors: their message ends in the remedy."""
    try:
        return Finding(name, True, question())
    except CadaEdgeError as error:
        what, _, remedy = str(error).partition(". ")
        return Finding(name, False, what, remedy or "See docs.")


def _gpus() -> list[Finding]:
    def describe_driver() -> str:
        major, minor = require_gpu().cuda_version
        return f"supports CUDA up to {major}.{minor}"

    def describe_gpus() -> str:
        return ", ".join(f"{name} (compute capability {major}.{minor})" for name, (major, minor) in gpus())

    driver = _ask("CUDA driver", describe_driver)
    if not driver.found:
        return [driver, Finding("GPU", False, "not to be seen without a driver", "see CUDA driver")]
    return [driver, _ask("GPU", describe_gpus)]


def _opencv() -> list[Finding]:
    remedy = "pip install opencv-python-headless, or the system's own python3-opencv"
    try:
        cv2: Any = importlib.import_module("cv2")
    except (ImportError, OSError, AttributeError) as error:
        # An OpenCV built against NumPy 1, as JetPack's, fails under NumPy 2 with one of these.
        if "_ARRAY_API" in str(error) or "numpy.core" in str(error) or "NumPy 1" in str(error):
            remedy = "this OpenCV was built for NumPy 1: pip install 'numpy<2'"
        return [Finding("OpenCV", False, f"cannot be imported: {error}", remedy)]
    build = str(cv2.getBuildInformation())
    return [
        Finding("OpenCV", True, str(cv2.__version__)),
        _video("FFmpeg", build, "FFMPEG", "pip's opencv-python-headless has it: for video files and rtsp://"),
        _video(
            "GStreamer",
            build,
            "GStreamer",
            "the system's python3-opencv has it: for csi:// and GStreamer texts",
        ),
    ]


def _video(name: str, build: str, key: str, remedy: str) -> Finding:
    written = re.search(rf"^\s*{key}:\s+(\S.*)$", build, flags=re.MULTILINE)
    answer = written.group(1).strip() if written else "NO"
    if answer.startswith("YES"):
        return Finding(f"OpenCV with {name}", True, answer)
    return Finding(f"OpenCV with {name}", False, "not in this build of OpenCV", remedy)


def jetson_findings(root: Path = Path("/")) -> list[Finding]:
    """Return a Jetson's name with its release, and its power mode; nothing on any other machine."""
    release = root / "etc/nv_tegra_release"
    if not release.is_file():
        return []
    model = root / "proc/device-tree/model"
    name = model.read_text(errors="replace").rstrip("\0\n") if model.is_file() else "unknown model"
    lines = release.read_text(errors="replace").splitlines()
    linux = lines[0].lstrip("# ").split(", GCID")[0] if lines else "unknown release"
    return [Finding("Jetson", True, f"{name}, {linux}"), _power_mode()]


def _power_mode() -> Finding:
    remedy = "sudo nvpmodel -q shows it, sudo nvpmodel -m 0 sets the highest on most models"
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("power mode", False, f"nvpmodel cannot be run: {error}", remedy)
    mode = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
    if mode is None:
        return Finding("power mode", False, f"nvpmodel said {done.stderr.strip()!r}", remedy)
    return Finding("power mode", True, mode.group(1))


def _verdicts(found: dict[str, Finding]) -> list[Finding]:
    """Say which model files run here."""

    def here(*names: str) -> bool:
        return any(found[name].found for name in names)

    opencv = found["OpenCV"].found
    onnx = opencv and here("OpenVINO", "ONNX Runtime")
    packages = opencv and here("TensorRT", "TensorRT for RTX") and here("cuda-bindings", "PyCUDA")
    gpu = packages and here("GPU")
    extra = "jetson" if "Jetson" in found else "tensorrt"
    if sys.platform != "linux":
        extra = "rtx"
    return [
        Finding(
            "runs .onnx", onnx, "yes" if onnx else "no", None if onnx else "pip install 'cada-edge[cpu]'"
        ),
        Finding(
            "runs .engine",
            gpu,
            "yes, if built for this GPU and this TensorRT" if gpu else "no: see what is missing above",
            None
            if gpu
            else "see GPU"
            if packages
            else f"with an NVIDIA GPU: pip install 'cada-edge[{extra}]'",
        ),
    ]
