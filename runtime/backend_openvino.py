"""OpenVINO on the CPU, computing in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, ClosedError
from cada_edge.runtime.backend import OUTPUT_NAMES, InputSpec, Outputs, require_outputs
from cada_edge.runtime.openvino_core import openvino_core

__all__ = ["OpenVinoBackend"]

_BATCH_SIZES = (8, 4, 2, 1)
"""Batches that are compiled; any other one runs as several of these. A fifth camera's frame then costs what
it costs alone, where compiling for five would hold up the line, and 8 frames share what there is to share."""


class OpenVinoBackend:
    """A model file in OpenVINO; each inference returns arrays of its own.

    Batches of 1, 2, 4 and 8 are compiled by themselves when they first come: static shapes run faster than a
    dynamic batch.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._threads = threads
        self._model: Any = None
        self._requests: dict[int, Any] = {}
        self._outputs: dict[int, list[NDArray[Any]]] = {}
        self._tensor: Any = None
        self._spec: InputSpec | None = None

    @property
    def spec(self) -> InputSpec:
        """What the model takes; after `open`."""
        if self._spec is None:
            raise ClosedError("The OpenVINO backend is not open; call open() first.")
        return self._spec

    @property
    def has_owner(self) -> bool:
        """Whether one thread alone may use what it has opened: any thread may."""
        return False

    @property
    def description(self) -> str:
        """Engine, version and device."""
        import openvino

        return f"openvino {openvino.__version__.split('-')[0]} CPU"

    @property
    def stages_ms(self) -> dict[str, float]:
        """Empty: it measures none."""
        return {}

    def open(self) -> None:
        """Load the model.

        Raises:
            BackendError: OpenVINO refuses the file.
        """
        import openvino

        self._tensor = openvino.Tensor
        try:
            self._model = openvino_core().read_model(self._path)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO {openvino.__version__} refuses {self._path}: {error} "
                "The file is damaged or made by a newer version: export the checkpoint again."
            ) from error
        require_outputs(self._path, [output.get_any_name() for output in self._model.outputs])
        frames = self._model.input(0)
        shape = frames.get_partial_shape()
        self._spec = InputSpec(frames.get_any_name(), (shape[1].get_length(), shape[2].get_length()))
        self._request(1)

    def _request(self, batch: int) -> Any:
        if batch in self._requests:
            return self._requests[batch]
        height, width = self.spec.size_hw
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if self._threads is not None:
            options["INFERENCE_NUM_THREADS"] = self._threads
        try:
            model = self._model.clone()
            model.reshape({self.spec.name: [batch, height, width, 3]})
            compiled = openvino_core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot compile {self._path} for batches of {batch}: {error}"
            ) from error
        # CPUs with AMX or AVX-512 BF16 would otherwise compute in bf16, beyond every parity limit.
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if precision != "f32":
            raise BackendError(
                f"OpenVINO would compute in {precision} although f32 was asked for. "
                "Use backend='onnxruntime'."
            )
        request = compiled.create_infer_request()
        # Of fixed shapes, so they stay where they are: looking each up by its name takes as long as all else.
        self._outputs[batch] = [request.get_tensor(name).data for name in OUTPUT_NAMES]
        self._requests[batch] = request
        return request

    def infer(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run a batch of uint8 (N, H, W, 3) BGR frames.

        Raises:
            BackendError: OpenVINO failed.
        """
        if self._model is None:
            raise ClosedError("The OpenVINO backend is closed; open it again before use.")
        parts = [self._infer_compiled(frames[rows]) for rows in _split(len(frames))]
        return parts[0] if len(parts) == 1 else Outputs(*map(np.concatenate, zip(*parts, strict=True)))

    def _infer_compiled(self, frames: NDArray[np.uint8]) -> Outputs:
        request = self._request(len(frames))
        # OpenVINO shares writeable memory only; camera SDKs hand out read-only arrays.
        if not (frames.flags.c_contiguous and frames.flags.writeable):
            frames = np.require(frames, requirements=("C", "W"))
        try:
            request.set_input_tensor(self._tensor(frames, shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO failed on a batch of shape {frames.shape}, {frames.dtype}: {error}"
            ) from error
        # The request writes its next results into the same memory.
        score, anomaly_map, stats = self._outputs[len(frames)]
        return Outputs(score.copy(), anomaly_map.copy(), stats.copy())

    def close(self) -> None:
        """Free the compiled models; harmless when called twice."""
        self._requests.clear()
        self._outputs.clear()
        self._model = None


def _split(batch: int) -> Iterator[slice]:
    """Give the rows of the compiled batches that make up a batch, the largest first."""
    first = 0
    while first < batch:
        size = next(size for size in _BATCH_SIZES if size <= batch - first)
        yield slice(first, first + size)
        first += size
