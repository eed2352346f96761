"""The CUDA driver through cuda-bindings, NVIDIA's package: 12.9 and 13.x, which agree in all used here."""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import CudaError

__all__ = ["BindingsCalls"]

_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "Close what else uses the GPU, or build the engine for smaller batches.",
    "CUDA_ERROR_INVALID_DEVICE": "Choose a GPU that nvidia-smi shows.",
    "CUDA_ERROR_NO_DEVICE": "Check CUDA_VISIBLE_DEVICES.",
}


class BindingsCalls:
    """`cada_edge.runtime.cuda_calls.CudaCalls` over the module cuda.bindings.driver."""

    has_graphs = True

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._device: Any = None
        self._context: Any = None

    @property
    def binding(self) -> str:
        """Package and version."""
        try:
            return f"cuda-bindings {version('cuda-bindings')}"
        except PackageNotFoundError:
            return "cuda-bindings"

    def _check(self, name: str, result: Any) -> Any:
        """Turn the driver's code into an error; return the value beside it."""
        code = result[0]
        if int(code) != 0:
            text = getattr(code, "name", str(code))
            remedy = _REMEDIES.get(text, "See: cada-edge doctor, and the kernel's log (dmesg).")
            raise CudaError(f"The CUDA call {name} failed with {text} ({int(code)}). {remedy}")
        return result[1] if len(result) > 1 else None

    def retain(self, ordinal: int) -> tuple[str, tuple[int, int]]:
        """Start the driver and retain a GPU's primary context; return its name and compute capability."""
        driver = self._driver
        attribute = driver.CUdevice_attribute
        try:
            self._check("cuInit", driver.cuInit(0))
        except CudaError:
            raise
        except RuntimeError as error:
            # The package looks for the driver's library at its first call.
            raise CudaError(
                f"{self.binding} finds no CUDA driver: {error} Install the NVIDIA driver, or run the .onnx "
                "model instead."
            ) from error
        device = self._check("cuDeviceGet", driver.cuDeviceGet(ordinal))
        name = bytes(self._check("cuDeviceGetName", driver.cuDeviceGetName(256, device)))
        major, minor = (
            int(self._check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(which, device)))
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self._context = self._check("cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain(device))
        self._device = device
        return name.partition(b"\0")[0].decode(), (major, minor)

    def push(self) -> None:
        """Make the context current in this thread."""
        self._check("cuCtxPushCurrent", self._driver.cuCtxPushCurrent(self._context))

    def pop(self) -> None:
        """Make the context current no longer."""
        self._check("cuCtxPopCurrent", self._driver.cuCtxPopCurrent())

    def release(self) -> None:
        """Let go of the primary context."""
        device, self._device, self._context = self._device, None, None
        self._check("cuDevicePrimaryCtxRelease", self._driver.cuDevicePrimaryCtxRelease(device))

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Allocate device memory; return address and handle."""
        pointer = self._check("cuMemAlloc", self._driver.cuMemAlloc(nbytes))
        return int(pointer), pointer

    def free(self, handle: Any) -> None:
        """Free device memory."""
        self._check("cuMemFree", self._driver.cuMemFree(handle))

    def pinned(self, nbytes: int) -> tuple[NDArray[np.uint8], Any]:
        """Allocate page-locked host memory; return it as uint8 (nbytes,), and a handle."""
        pointer = self._check("cuMemHostAlloc", self._driver.cuMemHostAlloc(nbytes, 0))
        memory = (ctypes.c_uint8 * nbytes).from_address(int(pointer))
        return np.ctypeslib.as_array(memory), pointer

    def free_pinned(self, handle: Any) -> None:
        """Free page-locked memory: arrays on it must not be used any more."""
        self._check("cuMemFreeHost", self._driver.cuMemFreeHost(handle))

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array into device memory."""
        copied = self._driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, stream)
        self._check("cuMemcpyHtoDAsync", copied)

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy device memory into a contiguous host array."""
        copied = self._driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream)
        self._check("cuMemcpyDtoHAsync", copied)

    def stream(self) -> tuple[int, Any]:
        """Make a non-blocking stream; return its number and handle."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._check("cuStreamCreate", self._driver.cuStreamCreate(int(flag)))
        return int(stream), stream

    def synchronize(self, handle: Any) -> None:
        """Wait for a stream's work."""
        self._check("cuStreamSynchronize", self._driver.cuStreamSynchronize(handle))

    def destroy_stream(self, handle: Any) -> None:
        """Destroy a stream."""
        self._check("cuStreamDestroy", self._driver.cuStreamDestroy(handle))

    def event(self) -> Any:
        """Make an event that takes the time."""
        flag = self._driver.CUevent_flags.CU_EVENT_DEFAULT
        return self._check("cuEventCreate", self._driver.cuEventCreate(int(flag)))

    def record(self, event: Any, stream: Any) -> None:
        """Put a mark into a stream."""
        self._check("cuEventRecord", self._driver.cuEventRecord(event, stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks that the device has passed."""
        return float(self._check("cuEventElapsedTime", self._driver.cuEventElapsedTime(start, end)))

    def destroy_event(self, handle: Any) -> None:
        """Destroy an event."""
        self._check("cuEventDestroy", self._driver.cuEventDestroy(handle))

    def begin_capture(self, stream: Any) -> None:
        """Capture what this thread enqueues from now on, instead of running it."""
        # Thread-local: with the global mode another thread's allocation would break the capture.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._check("cuStreamBeginCapture", self._driver.cuStreamBeginCapture(stream, mode))

    def end_capture(self, stream: Any) -> Any:
        """End the capture and return the executable graph."""
        graph = self._check("cuStreamEndCapture", self._driver.cuStreamEndCapture(stream))
        try:
            return self._check("cuGraphInstantiate", self._driver.cuGraphInstantiate(graph, 0))
        finally:
            self._check("cuGraphDestroy", self._driver.cuGraphDestroy(graph))

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a graph."""
        self._check("cuGraphLaunch", self._driver.cuGraphLaunch(graph, stream))

    def destroy_graph(self, handle: Any) -> None:
        """Destroy a graph."""
        self._check("cuGraphExecDestroy", self._driver.cuGraphExecDestroy(handle))
