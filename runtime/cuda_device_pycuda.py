"""The CUDA driver through PyCUDA, which a Jetson builds from source; it has no CUDA graphs.

PyCUDA keeps a stack of contexts of its own for each thread, and frees nothing from another thread (it prints
a warning and leaks): hence the device's rule of one owner. It destroys streams and events with their last
reference; that one is kept here and dropped while the context is current. ``pycuda.autoinit`` is never used:
it makes a context of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import CudaError
from cada_edge.runtime.cuda_driver import restored_context

__all__ = ["PycudaCalls"]


class PycudaCalls:
    """`cada_edge.runtime.cuda_calls.CudaCalls` over the module pycuda.driver."""

    has_graphs = False

    def __init__(
        self, driver: Any, *, restored: Callable[[], AbstractContextManager[None]] = restored_context
    ) -> None:
        self._driver = driver
        self._restored = restored
        self._context: Any = None
        self._kept: dict[int, Any] = {}

    @property
    def binding(self) -> str:
        """Package and version."""
        try:
            return f"pycuda {version('pycuda')}"
        except PackageNotFoundError:
            return "pycuda"

    @contextmanager
    def _wrapped(self, name: str) -> Iterator[None]:
        """Turn PyCUDA's errors into ours; without a device it raises a RuntimeError of its own."""
        try:
            yield
        except (self._driver.Error, RuntimeError) as error:
            if isinstance(error, CudaError):
                raise
            raise CudaError(
                f"PyCUDA's {name} failed: {error}. See: cada-edge doctor, and the kernel's log (dmesg)."
            ) from error

    def retain(self, ordinal: int) -> tuple[str, tuple[int, int]]:
        """Start the driver and retain a GPU's primary context; return its name and compute capability."""
        with self._wrapped("init"):
            self._driver.init()
            device = self._driver.Device(ordinal)
            major, minor = device.compute_capability()
            self._context = device.retain_primary_context()
            return str(device.name()), (int(major), int(minor))

    def push(self) -> None:
        """Make the context current in this thread."""
        with self._wrapped("Context.push"):
            self._context.push()

    def pop(self) -> None:
        """Make the context current no longer."""
        with self._wrapped("Context.pop"):
            self._context.pop()

    def release(self) -> None:
        """Let go of the primary context."""
        context, self._context = self._context, None
        with self._wrapped("Context.detach"), self._restored():
            context.detach()

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Allocate device memory; return address and handle."""
        with self._wrapped("mem_alloc"):
            allocation = self._driver.mem_alloc(nbytes)
            return int(allocation), allocation

    def free(self, handle: Any) -> None:
        """Free device memory."""
        with self._wrapped("DeviceAllocation.free"):
            handle.free()

    def pinned(self, nbytes: int) -> tuple[NDArray[np.uint8], Any]:
        """Allocate page-locked host memory; return it as uint8 (nbytes,), and a handle."""
        with self._wrapped("pagelocked_empty"):
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(nbytes, np.uint8)
            return array, array.base

    def free_pinned(self, handle: Any) -> None:
        """Free page-locked memory: arrays on it must not be used any more."""
        with self._wrapped("PagelockedHostAllocation.free"):
            handle.free()

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array into device memory."""
        with self._wrapped("memcpy_htod_async"):
            self._driver.memcpy_htod_async(address, array, self._kept[stream])

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy device memory into a contiguous host array."""
        with self._wrapped("memcpy_dtoh_async"):
            self._driver.memcpy_dtoh_async(array, address, self._kept[stream])

    def stream(self) -> tuple[int, Any]:
        """Make a stream; return its number and handle."""
        with self._wrapped("Stream"):
            # 1 is CU_STREAM_NON_BLOCKING, for which PyCUDA has no name.
            stream = self._driver.Stream(1)
            number = int(stream.handle)
            self._kept[number] = stream
            return number, number

    def synchronize(self, handle: Any) -> None:
        """Wait for a stream's work."""
        with self._wrapped("Stream.synchronize"):
            self._kept[handle].synchronize()

    def destroy_stream(self, handle: Any) -> None:
        """Destroy a stream."""
        del self._kept[handle]

    def event(self) -> Any:
        """Make an event that takes the time."""
        with self._wrapped("Event"):
            event = self._driver.Event()
            self._kept[id(event)] = event
            return id(event)

    def record(self, event: Any, stream: Any) -> None:
        """Put a mark into a stream."""
        with self._wrapped("Event.record"):
            self._kept[event].record(self._kept[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks that the device has passed."""
        with self._wrapped("Event.time_till"):
            return float(self._kept[start].time_till(self._kept[end]))

    def destroy_event(self, handle: Any) -> None:
        """Destroy an event."""
        del self._kept[handle]

    def begin_capture(self, stream: Any) -> None:
        """Refuse: PyCUDA has no graphs."""
        raise _no_graphs()

    def end_capture(self, stream: Any) -> Any:
        """Refuse: PyCUDA has no graphs."""
        raise _no_graphs()

    def launch(self, graph: Any, stream: Any) -> None:
        """Refuse: PyCUDA has no graphs."""
        raise _no_graphs()

    def destroy_graph(self, handle: Any) -> None:
        """Refuse: PyCUDA has no graphs."""
        raise _no_graphs()


def _no_graphs() -> CudaError:
    return CudaError("PyCUDA has no CUDA graphs; wanted a binding that has. Install cuda-bindings.")
