"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, ClosedError
from cada_edge.runtime.backend import OUTPUT_NAMES, InputSpec, Outputs, require_outputs

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend:
    """A model file in an ONNX Runtime session; each inference returns arrays of its own."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._threads = threads
        self._session: Any = None
        self._spec: InputSpec | None = None

    @property
    def spec(self) -> InputSpec:
        """What the model takes; after `open`."""
        if self._spec is None:
            raise ClosedError("The ONNX Runtime backend is not open; call open() first.")
        return self._spec

    @property
    def has_owner(self) -> bool:
        """Whether one thread alone may use what it has opened: any thread may."""
        return False

    @property
    def description(self) -> str:
        """Engine, version and device."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__} CPU"

    @property
    def stages_ms(self) -> dict[str, float]:
        """Empty: it measures none."""
        return {}

    def open(self) -> None:
        """Load the model.

        Raises:
            BackendError: ONNX Runtime refuses the file.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(self._path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # broad: ONNX Runtime's exceptions have no public base class
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} refuses {self._path}: {error} "
                "The file is damaged or made by a newer version: export the checkpoint again."
            ) from error
        require_outputs(self._path, [output.name for output in self._session.get_outputs()])
        frames = self._session.get_inputs()[0]
        self._spec = InputSpec(frames.name, (frames.shape[1], frames.shape[2]))

    def infer(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run a batch of uint8 (N, H, W, 3) BGR frames.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        if self._session is None:
            raise ClosedError("The ONNX Runtime backend is closed; open it again before use.")
        try:
            return Outputs(*self._session.run(OUTPUT_NAMES, {self.spec.name: frames}))
        except Exception as error:  # broad: ONNX Runtime's exceptions have no public base class
            raise BackendError(
                f"ONNX Runtime failed on a batch of shape {frames.shape}, {frames.dtype}: {error}"
            ) from error

    def close(self) -> None:
        """Free the session; harmless when called twice."""
        self._session = None
