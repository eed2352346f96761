"""One GPU for the runtime: memory, pinned arrays, copies, streams, events and graphs, behind one interface.

Two packages can drive it: cuda-bindings (wheels, CUDA graphs) and PyCUDA (usual on a Jetson, no graphs). Both
use the device's primary context, the one that TensorRT uses.

Threads: the thread that opens a device owns it; any other one gets a `ThreadOwnerError`. The context is
current only inside ``with device.current():``, so that an application's own CUDA work is not disturbed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cada_edge.errors import ClosedError, CudaError, ThreadOwnerError
from cada_edge.runtime.cuda_calls import CudaCalls

__all__ = ["CudaDevice", "Event", "Graph", "Memory", "Stream"]


class Memory(NamedTuple):
    """A block of device memory."""

    address: int
    """Where it lies on the device."""
    nbytes: int
    """Its size."""
    handle: Any
    """What the binding knows it by."""


class Stream(NamedTuple):
    """A queue of work on the device that does not wait for the default stream."""

    address: int
    """cudaStream_t as a number, which TensorRT takes."""
    handle: Any
    """What the binding knows it by."""


class Event(NamedTuple):
    """A mark in a stream that takes the time."""

    handle: Any
    """What the binding knows it by."""


class Graph(NamedTuple):
    """Work that was captured once and is launched as a whole."""

    handle: Any
    """What the binding knows it by."""


class CudaDevice:
    """A GPU that is open from `open` to `close`, used by one thread.

    Whatever was made with it and not freed is freed by `close`; pinned arrays must not be touched after it.
    """

    def __init__(self, calls: CudaCalls, ordinal: int = 0) -> None:
        self._calls = calls
        self.ordinal = ordinal
        self.name = ""
        """Name of the GPU, after `open`."""
        self.compute_capability = (0, 0)
        """As (8, 7), after `open`."""
        self._owner: threading.Thread | None = None
        self._state = "new"
        self._depth = 0
        self._owned: dict[int, tuple[Any, Callable[[], None]]] = {}

    @property
    def binding(self) -> str:
        """Package and version that drive the GPU."""
        return self._calls.binding

    @property
    def has_graphs(self) -> bool:
        """Whether CUDA graphs can be captured."""
        return self._calls.has_graphs

    def open(self) -> None:
        """Retain the GPU's primary context; this thread owns the device from now on.

        Raises:
            CudaError: The driver refuses.
            ClosedError: It has been closed.
        """
        if self._state == "open":
            self._check_owner()
            return
        if self._state == "closed":
            raise ClosedError(f"CUDA device {self.ordinal} is closed. Make a new CudaDevice to go on.")
        self.name, self.compute_capability = self._calls.retain(self.ordinal)
        self._owner = threading.current_thread()
        self._state = "open"

    def close(self) -> None:
        """Free everything made with the device and let go of its context; harmless when called twice.

        Raises:
            ThreadOwnerError: Another thread owns it; it stays open.
            CudaError: The driver refused a part; everything else is freed all the same.
        """
        if self._state != "open":
            self._state = "closed"
            return
        self._check_owner()
        self._state = "closed"
        failures: list[CudaError] = []
        try:
            with self._pushed():
                while self._owned:
                    _, (_, free) = self._owned.popitem()
                    try:
                        free()
                    except CudaError as error:
                        failures.append(error)
        except CudaError as error:
            failures.append(error)
        self._owned.clear()
        try:
            self._calls.release()
        except CudaError as error:
            failures.append(error)
        if failures:
            raise failures[0]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context current for a block; it is popped however the block ends.

        Raises:
            ThreadOwnerError: Another thread owns the device.
            ClosedError: The device is not open.
        """
        self._check_open()
        with self._pushed():
            yield

    @contextmanager
    def _pushed(self) -> Iterator[None]:
        self._calls.push()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._calls.pop()

    def _check_owner(self) -> None:
        here = threading.current_thread()
        if self._owner is not here:
            owner = "no thread" if self._owner is None else f"the thread {self._owner.name!r}"
            raise ThreadOwnerError(
                f"The thread {here.name!r} used CUDA device {self.ordinal}, which {owner} opened; wanted one "
                "thread that opens, uses and closes it. Make a Detector inside each thread, or send the "
                "frames to the thread that has it, through a queue."
            )

    def _check_open(self) -> None:
        if self._state != "open":
            raise ClosedError(f"CUDA device {self.ordinal} is not open ({self._state}). Call open() first.")
        self._check_owner()

    def _check_current(self) -> None:
        self._check_open()
        if self._depth == 0:
            raise CudaError(
                f"CUDA device {self.ordinal} was used while its context is not current; wanted the call "
                "inside 'with device.current():'. Put it there."
            )

    def _own(self, resource: Any, free: Callable[[], None]) -> None:
        self._owned[id(resource)] = (resource, free)

    def free(self, resource: Any) -> None:
        """Free what the device made: memory, a pinned array, a stream, an event or a graph.

        Raises:
            CudaError: It is not the device's, or has been freed already.
        """
        self._check_current()
        if id(resource) not in self._owned:
            raise CudaError(
                f"A {type(resource).__name__} came that CUDA device {self.ordinal} does not hold; wanted one "
                "that it made and that was not freed before. Free each once."
            )
        _, free = self._owned.pop(id(resource))
        free()

    def allocate(self, nbytes: int) -> Memory:
        """Allocate device memory of a size in bytes."""
        self._check_current()
        address, handle = self._calls.allocate(nbytes)
        memory = Memory(address, nbytes, handle)
        self._own(memory, lambda: self._calls.free(handle))
        return memory

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate a page-locked host array, which the device copies without a detour; never give it away."""
        self._check_current()
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        flat, handle = self._calls.pinned(nbytes)
        array = flat.view(dtype).reshape(shape)
        self._own(array, lambda: self._calls.free_pinned(handle))
        return array

    def stream(self) -> Stream:
        """Make a stream."""
        self._check_current()
        stream = Stream(*self._calls.stream())
        self._own(stream, lambda: self._calls.destroy_stream(stream.handle))
        return stream

    def event(self) -> Event:
        """Make an event."""
        self._check_current()
        event = Event(self._calls.event())
        self._own(event, lambda: self._calls.destroy_event(event.handle))
        return event

    def copy_to_device(self, memory: Memory, array: NDArray[Any], stream: Stream) -> None:
        """Enqueue a copy of a pinned array to the start of a block; the array must stay as it is until then.

        Raises:
            CudaError: The array is larger than the block or not contiguous.
        """
        self._check_copy(memory, array)
        self._calls.copy_to_device(memory.address, array, stream.handle)

    def copy_to_host(self, array: NDArray[Any], memory: Memory, stream: Stream) -> None:
        """Enqueue a copy of the start of a block into a pinned array.

        Raises:
            CudaError: The array is larger than the block or not contiguous.
        """
        self._check_copy(memory, array)
        self._calls.copy_to_host(array, memory.address, stream.handle)

    def _check_copy(self, memory: Memory, array: NDArray[Any]) -> None:
        self._check_current()
        if array.nbytes > memory.nbytes or not array.flags.c_contiguous:
            raise CudaError(
                f"An array of {array.nbytes} bytes, contiguous: {array.flags.c_contiguous}, came to a copy "
                f"with {memory.nbytes} bytes of device memory; wanted a contiguous one that fits."
            )

    def synchronize(self, stream: Stream) -> None:
        """Wait until everything enqueued in a stream is done."""
        self._check_current()
        self._calls.synchronize(stream.handle)

    def record(self, event: Event, stream: Stream) -> None:
        """Enqueue a mark."""
        self._check_current()
        self._calls.record(event.handle, stream.handle)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Return the milliseconds between two marks; synchronise first."""
        self._check_current()
        return self._calls.elapsed_ms(start.handle, end.handle)

    def capture(self, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Capture what a function enqueues in a stream; nothing of it runs.

        Args:
            stream: The stream.
            enqueue: What enqueues the work; other threads' work is not captured.

        Raises:
            CudaError: The binding has no graphs, or the driver refuses. The stream can be used as before.
        """
        self._check_current()
        if not self.has_graphs:
            raise CudaError(
                f"{self.binding} has no CUDA graphs; wanted a binding that captures. Install cuda-bindings."
            )
        self._calls.begin_capture(stream.handle)
        try:
            enqueue()
        except BaseException:
            # An open capture would swallow all later work of the stream.
            with suppress(CudaError):
                self._calls.destroy_graph(self._calls.end_capture(stream.handle))
            raise
        graph = Graph(self._calls.end_capture(stream.handle))
        self._own(graph, lambda: self._calls.destroy_graph(graph.handle))
        return graph

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Enqueue a captured graph."""
        self._check_current()
        self._calls.launch(graph.handle, stream.handle)
