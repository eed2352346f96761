"""What runs a model file: the protocol of the inference engines, and the choice of one."""

from __future__ import annotations

import operator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, MissingExtraError, ModelMismatchError

__all__ = ["BACKENDS", "OUTPUT_NAMES", "Backend", "InputSpec", "Outputs", "choose_backend", "require_outputs"]

BACKENDS = ("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt+cuda-bindings", "tensorrt+pycuda")
"""Names that `choose_backend` takes; after the + stands the package that drives the GPU."""

OUTPUT_NAMES = ("score", "anomaly_map", "stats")
"""Outputs of every model file, in this order."""


class InputSpec(NamedTuple):
    """What the model file takes."""

    name: str
    """Name of the input tensor: 'frames'."""
    size_hw: tuple[int, int]
    """Height and width of the uint8 BGR frames, in pixels."""


class Outputs(NamedTuple):
    """What one inference gives; the caller owns the arrays."""

    score: NDArray[np.float32]
    """float32 (N,), aligned."""
    anomaly_map: NDArray[np.float32]
    """float32 (N, H, W), aligned and smoothed; (N, 0, 0) where only scores were asked for."""
    stats: NDArray[np.float32]
    """float32 (N, 2): u^ and the guarded g^."""


class Backend(Protocol):
    """An inference engine holding one model file. The Detector, not the backend, validates and times."""

    @property
    def spec(self) -> InputSpec:
        """What the model takes; after `open`."""
        ...

    @property
    def description(self) -> str:
        """Engine, version and device, as 'onnxruntime 1.20.0 CPU'."""
        ...

    @property
    def has_owner(self) -> bool:
        """Whether one thread alone may use what it has opened."""
        ...

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of the last inference per stage, where the engine measures them; else empty."""
        ...

    def open(self) -> None:
        """Load the model.

        Raises:
            BackendError: The engine refuses the file.
        """

    def infer(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run a batch of uint8 (N, H, W, 3) BGR frames.

        Raises:
            BackendError: The engine failed.
        """
        ...

    def close(self) -> None:
        """Free everything; harmless when called twice."""


def choose_backend(
    path: Path, name: str = "auto", *, threads: int | None = None, score_only: bool = False
) -> Backend:
    """Choose the engine for a model file, without loading it.

    Args:
        path: The model file; its extension decides with 'auto': .onnx runs on OpenVINO where that is
            installed, else on ONNX Runtime; .engine runs on the GPU, and nowhere else.
        name: One of `BACKENDS`.
        threads: CPU threads; None for the engine's own choice.
        score_only: Leave the map on the GPU; for .engine.

    Raises:
        ConfigError: Unknown name or extension, one that does not go with the other options, or an impossible
            number of threads.
        MissingExtraError: No engine for the file is installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r} came; wanted one of {', '.join(BACKENDS)}.")
    suffix = path.suffix.lower()
    if suffix not in (".onnx", ".engine"):
        raise ConfigError(
            f"The model {path.name} has the extension {path.suffix!r}; wanted .onnx or .engine. "
            "Make one with: cada-edge export checkpoint.pt --out model.onnx"
        )
    threads = _threads_of(threads)
    engine, _, binding = name.partition("+")
    if suffix == ".engine":
        if engine not in ("auto", "tensorrt") or threads is not None:
            asked = f"backend {name!r}" if threads is None else f"threads = {threads}"
            raise ConfigError(
                f"{asked} came with {path.name}, which runs on the GPU alone; wanted backend 'auto' or "
                "'tensorrt', without threads. For the CPU, load the .onnx model."
            )
        from cada_edge.runtime.backend_tensorrt import TensorRTBackend

        return TensorRTBackend(path, binding=binding or "auto", score_only=score_only)
    if engine == "tensorrt" or score_only:
        asked = f"backend {name!r}" if engine == "tensorrt" else "score_only"
        raise ConfigError(
            f"{asked} came with {path.name}; wanted an engine. Build one with: "
            "cada-edge export checkpoint.pt --format engine --out model.engine"
        )
    if name == "openvino" or (name == "auto" and find_spec("openvino") is not None):
        if find_spec("openvino") is None:
            raise MissingExtraError("The OpenVINO backend", "openvino", "cpu")
        from cada_edge.runtime.backend_openvino import OpenVinoBackend

        return OpenVinoBackend(path, threads=threads)
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("Running an ONNX model", "onnxruntime", "cpu")
    from cada_edge.runtime.backend_onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads=threads)


def _threads_of(value: Any) -> int | None:
    if value is None:
        return None
    try:
        threads = operator.index(value)
    except TypeError:
        threads = 0
    if threads < 1 or isinstance(value, bool):
        raise ConfigError(
            f"threads {value!r} came; wanted a whole number from 1, or None for the engine's choice."
        )
    return threads


def require_outputs(path: Path, names: list[str]) -> None:
    """Check a model's outputs.

    Raises:
        ModelMismatchError: They are not `OUTPUT_NAMES`.
    """
    if sorted(names) != sorted(OUTPUT_NAMES):
        raise ModelMismatchError(
            f"The model {path} has the outputs {', '.join(names)}; wanted {', '.join(OUTPUT_NAMES)}. "
            "Export the checkpoint with: cada-edge export checkpoint.pt --out model.onnx"
        )
