"""TensorRT, or TensorRT for RTX, on one GPU.

Threads: the thread that opens the backend owns it, uses it and closes it; any other one gets a
`ThreadOwnerError`. For parallel inference each thread opens a backend of its own.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import BackendError, CadaEdgeError, ClosedError, CudaError
from cada_edge.runtime.backend import OUTPUT_NAMES, InputSpec, Outputs
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_device import CudaDevice, Event, Graph, Memory, Stream
from cada_edge.runtime.cuda_driver import require_gpu
from cada_edge.runtime.engine_check import check_gpu, check_version, engine_of, rebuild_command
from cada_edge.runtime.tensorrt_engine import MODULES, TensorRTEngine, load_tensorrt

__all__ = ["STAGES", "TensorRTBackend"]

_log = logging.getLogger(__name__)

STAGES = ("host_to_device", "compute", "device_to_host")
"""What `TensorRTBackend.stages_ms` holds, in this order."""

_ALIGNMENT = 256
"""Of each tensor's address, as cudaMalloc gives it."""

_COPIED_FIRST = ("score", "stats", "anomaly_map")
"""Outputs in one block, the map last: one copy takes all of them, or all but the map."""


class _Open:
    """Everything that an open backend holds, all of it the device's."""

    def __init__(self, device: CudaDevice, engine: TensorRTEngine) -> None:
        most = engine.input.largest_batch
        self.device = device
        self.engine = engine
        self.layout, output_bytes = _layout(engine.set_batch(most))
        self.host_input = device.pinned((most, *engine.input.frame_hw, 3), np.uint8)
        self.host_output = device.pinned((output_bytes,), np.uint8)
        self.device_input: Memory = device.allocate(self.host_input.nbytes)
        self.device_output: Memory = device.allocate(output_bytes)
        self.stream: Stream = device.stream()
        self.marks: list[Event] = [device.event() for _ in range(len(STAGES) + 1)]
        self.graph: Graph | None = None
        self.batch = 0
        """Frames that the engine's addresses and shapes are set for; 0 before the first run."""
        self.has_run = False
        """Whether the engine has run with them, which a capture needs."""


def _layout(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """Place the float32 outputs in one block: name -> (offset, shape), and the block's size in bytes."""
    layout, offset = {}, 0
    for name in _COPIED_FIRST:
        layout[name] = (offset, shapes[name])
        nbytes = 4 * int(np.prod(shapes[name], dtype=np.int64))
        offset += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    return layout, offset


class TensorRTBackend:
    """An engine file on a GPU; each inference returns arrays of its own."""

    def __init__(self, path: Path, *, binding: str = "auto", score_only: bool = False) -> None:
        """Keep the options; the GPU is touched by `open`.

        Args:
            path: The engine; its manifest lies beside it.
            binding: Package that drives the GPU, one of `cada_edge.runtime.cuda_calls.BINDINGS`.
            score_only: Leave the map on the GPU; `Outputs.anomaly_map` is then float32 (N, 0, 0).
        """
        self._path = path
        self._binding = binding
        self._score_only = score_only
        self._open: _Open | None = None
        self._engine_name = self._device_name = ""
        self._without_graph: str | None = None
        self._stages_ms: dict[str, float] = {}

    @property
    def spec(self) -> InputSpec:
        """What the model takes; after `open`."""
        taken = self._opened().engine.input
        return InputSpec(taken.name, taken.frame_hw)

    @property
    def has_owner(self) -> bool:
        """Whether one thread alone may use what it has opened: the one that opened it."""
        return True

    @property
    def description(self) -> str:
        """Engine, version, GPU, CUDA binding, and whether a CUDA graph is used; after `open`."""
        if self._open is None:
            return "tensorrt, not open"
        graph = "CUDA graph" if self._without_graph is None else f"no CUDA graph: {self._without_graph}"
        return f"{self._engine_name} {self._device_name}, {graph})"

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of the last inference per stage of `STAGES`, by the GPU's own clock."""
        return dict(self._stages_ms)

    def _opened(self) -> _Open:
        if self._open is None:
            raise ClosedError("The TensorRT backend is not open; call open() first.")
        return self._open

    def open(self) -> None:
        """Check driver, versions and GPU, load the engine, and run it until its first frame will be fast.

        Raises:
            CudaError: There is no driver or GPU, or the driver failed.
            MissingExtraError: TensorRT or a CUDA binding is not installed.
            BackendError: The engine does not fit this machine, or the library refuses it.
        """
        if self._open is not None:
            return
        build = engine_of(self._path)
        require_gpu()
        version = str(load_tensorrt(build.target).__version__)
        check_version(self._path, build, version)
        device = CudaDevice(choose_calls(self._binding))
        device.open()
        engine: TensorRTEngine | None = None
        try:
            check_gpu(self._path, build, device.name, device.compute_capability)
            rebuild = rebuild_command(self._path, build, device.compute_capability)
            with device.current():
                engine = TensorRTEngine(build.target, self._path, rebuild=rebuild)
                self._open = _Open(device, engine)
            self._engine_name = f"{MODULES[build.target]} {version}"
            # Kept: a binding looks its version up in its package's metadata, which takes milliseconds.
            binding = device.binding
            self._device_name = f"{device.name} ({binding}"
            self._without_graph = None if device.has_graphs else f"{binding} has none"
            # Twice: the first run allocates and loads kernels, the second captures the graph.
            warm_up = np.zeros((engine.input.smallest_batch, *engine.input.frame_hw, 3), np.uint8)
            self.infer(warm_up)
            self.infer(warm_up)
        except BaseException:
            self._open = None
            with suppress(CadaEdgeError), device.current():
                if engine is not None:
                    engine.close()
            with suppress(CadaEdgeError):
                device.close()
            raise

    def layer_information(self) -> str:
        """Ask the engine inspector for the engine's layers, as `TensorRTEngine.layer_information` does.

        Raises:
            BackendError: The inspector gives nothing.
            ThreadOwnerError: Another thread opened the backend.
            ClosedError: It is not open.
        """
        parts = self._opened()
        with parts.device.current():
            return parts.engine.layer_information()

    def infer(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run a batch of uint8 (N, H, W, 3) BGR frames; more than the engine takes at once in several runs.

        Raises:
            BackendError: The frames do not fit, or TensorRT or the driver failed.
            ThreadOwnerError: Another thread opened the backend.
            ClosedError: It is not open.
        """
        parts = self._opened()
        wanted = parts.engine.input.frame_hw
        if frames.dtype != np.uint8 or frames.shape[1:] != (*wanted, 3) or len(frames) == 0:
            raise BackendError(
                f"Frames of shape {frames.shape}, {frames.dtype} came; wanted uint8 (N, {wanted[0]}, "
                f"{wanted[1]}, 3) with N from 1. Resize them with cada_edge.runtime.preprocess."
            )
        most = parts.engine.input.largest_batch
        self._stages_ms = dict.fromkeys(STAGES, 0.0)
        with parts.device.current():
            try:
                runs = [
                    self._run(parts, frames[start : start + most]) for start in range(0, len(frames), most)
                ]
            except BaseException:
                # Whatever was set half-way is set anew by the next call, once the GPU has let go of it.
                parts.batch = 0
                with suppress(CudaError):
                    parts.device.synchronize(parts.stream)
                raise
        return runs[0] if len(runs) == 1 else Outputs(*map(np.concatenate, zip(*runs, strict=True)))

    def _run(self, parts: _Open, frames: NDArray[np.uint8]) -> Outputs:
        device, stream, marks = parts.device, parts.stream, parts.marks
        count = len(frames)
        batch = max(count, parts.engine.input.smallest_batch)
        if parts.batch != batch:
            self._bind(parts, batch)
        parts.host_input[:count] = frames
        parts.host_input[count:batch] = 0
        copied = parts.layout["anomaly_map"][0] if self._score_only else _end(parts.layout)
        device.record(marks[0], stream)
        device.copy_to_device(parts.device_input, parts.host_input[:batch], stream)
        device.record(marks[1], stream)
        self._compute(parts)
        device.record(marks[2], stream)
        device.copy_to_host(parts.host_output[:copied], parts.device_output, stream)
        device.record(marks[3], stream)
        device.synchronize(stream)
        for stage, start, end in zip(STAGES, marks[:-1], marks[1:], strict=True):
            self._stages_ms[stage] += device.elapsed_ms(start, end)
        return Outputs(*(self._output(parts, name, count) for name in OUTPUT_NAMES))

    def _bind(self, parts: _Open, batch: int) -> None:
        """Set shapes and addresses for a number of frames; a graph of the old ones is of no use any more."""
        parts.batch, parts.has_run = 0, False
        if parts.graph is not None:
            graph, parts.graph = parts.graph, None
            parts.device.free(graph)
        parts.layout, _ = _layout(parts.engine.set_batch(batch))
        parts.engine.bind(parts.engine.input.name, parts.device_input.address)
        for name, (offset, _) in parts.layout.items():
            parts.engine.bind(name, parts.device_output.address + offset)
        parts.batch = batch

    def _compute(self, parts: _Open) -> None:
        """Enqueue the engine: the first time with a binding by itself, from the second time on as a graph."""

        def enqueue() -> None:
            parts.engine.enqueue(parts.stream.address)

        if parts.graph is None and parts.has_run and self._without_graph is None:
            try:
                parts.graph = parts.device.capture(parts.stream, enqueue)
            except BackendError as error:
                self._without_graph = "its capture failed"
                _log.warning("Running without a CUDA graph, which costs some time per frame. %s", error)
        if parts.graph is not None:
            parts.device.launch(parts.graph, parts.stream)
        else:
            enqueue()
            parts.has_run = True

    def _output(self, parts: _Open, name: str, count: int) -> NDArray[np.float32]:
        """Copy the first rows of an output out of the pinned memory, which the next run overwrites."""
        offset, shape = parts.layout[name]
        if self._score_only and name == "anomaly_map":
            return np.empty((count, 0, 0), np.float32)
        size = int(np.prod(shape, dtype=np.int64))
        values = parts.host_output[offset : offset + 4 * size].view(np.float32).reshape(shape)
        return np.array(values[:count], np.float32)

    def close(self) -> None:
        """Free everything on the GPU; harmless when called twice.

        Raises:
            ThreadOwnerError: Another thread opened the backend; it stays open.
            CudaError: The driver refused; everything is freed as far as it can be.
        """
        if self._open is None:
            return
        parts = self._open
        try:
            with parts.device.current():
                # Before its context goes: TensorRT frees its memory with its objects.
                self._open = None
                parts.engine.close()
        finally:
            if self._open is None:
                parts.device.close()


def _end(layout: dict[str, tuple[int, tuple[int, ...]]]) -> int:
    offset, shape = layout["anomaly_map"]
    return offset + 4 * int(np.prod(shape, dtype=np.int64))
