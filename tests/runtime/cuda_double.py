"""Doubles of the CUDA driver on host memory: cuda.bindings.driver, and libcuda for ctypes.

They are no CUDA: they keep its rules that our code must obey. A call needs a current context; work enqueued
in a stream runs when the stream is synchronised; a capture swallows work; a block is freed once. Time is
counted by the work: 1 ms a copy.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

COPY_MS = 1.0


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUstream_flags(enum.IntEnum):
    CU_STREAM_DEFAULT = 0
    CU_STREAM_NON_BLOCKING = 1


class CUevent_flags(enum.IntEnum):
    CU_EVENT_DEFAULT = 0


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


OK = CUresult.CUDA_SUCCESS
INVALID = CUresult.CUDA_ERROR_INVALID_VALUE
NO_CONTEXT = CUresult.CUDA_ERROR_INVALID_CONTEXT
Work = Callable[[], None]


class CudaDriverDouble:
    """Double of the module cuda.bindings.driver."""

    CUresult = CUresult
    CUstream_flags = CUstream_flags
    CUevent_flags = CUevent_flags
    CUstreamCaptureMode = CUstreamCaptureMode
    CUdevice_attribute = CUdevice_attribute

    CONTEXT = 0xC0DE

    def __init__(self) -> None:
        self.devices = 1
        self.capability = (8, 7)
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        """Name of a call -> which of its next calls fails, from 1."""
        self.retained = 0
        self.stacks: dict[int, list[int]] = defaultdict(list)
        self.clock_ms = 0.0
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.captures: dict[int, list[Work]] = {}
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self._next = 0x1000

    def held(self) -> int:
        """Count everything that was made and not freed."""
        kinds = (self.blocks, self.pinned, self.streams, self.events, self.graphs)
        return sum(len(kind) for kind in kinds) + self.retained

    def stack(self) -> list[int]:
        """Contexts of this thread, the current one last."""
        return self.stacks[threading.get_ident()]

    def number(self) -> int:
        self._next += 0x1000
        return self._next

    def _called(self, name: str, *, needs_context: bool = True) -> enum.IntEnum:
        self.calls.append(name)
        if name in self.fail:
            self.fail[name] -= 1
            if self.fail[name] == 0:
                del self.fail[name]
                return CUresult.CUDA_ERROR_OUT_OF_MEMORY if "Alloc" in name else INVALID
        return NO_CONTEXT if needs_context and not self.stack() else OK

    def enqueue(self, stream: int, work: Work, cost_ms: float) -> None:
        """Put work into a stream, or into its capture."""

        def timed() -> None:
            self.clock_ms += cost_ms
            work()

        self.captures.get(stream, self.streams[stream]).append(timed)

    def read(self, address: int, nbytes: int) -> np.ndarray:
        """Return a view of device memory, inside one block."""
        for start, block in self.blocks.items():
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start : address - start + nbytes]
        raise AssertionError(f"address {address:#x} with {nbytes} bytes lies in no block")

    def cuInit(self, flags: int) -> tuple[Any, ...]:
        return (self._called("cuInit", needs_context=False),)

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        code = self._called("cuDeviceGet", needs_context=False)
        return (code if ordinal < self.devices else CUresult.CUDA_ERROR_INVALID_DEVICE, ordinal)

    def cuDeviceGetName(self, length: int, device: int) -> tuple[Any, ...]:
        return (self._called("cuDeviceGetName", needs_context=False), b"Double GPU\0\0\0")

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        code = self._called("cuDeviceGetAttribute", needs_context=False)
        return (code, self.capability[attribute - 75])

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        code = self._called("cuDevicePrimaryCtxRetain", needs_context=False)
        self.retained += code == OK
        return (code, self.CONTEXT)

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[Any, ...]:
        code = self._called("cuDevicePrimaryCtxRelease", needs_context=False)
        self.retained -= 1
        return (code,)

    def cuCtxPushCurrent(self, context: int) -> tuple[Any, ...]:
        code = self._called("cuCtxPushCurrent", needs_context=False)
        if code == OK:
            self.stack().append(context)
        return (code,)

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        code = self._called("cuCtxPopCurrent")
        return (code, self.stack().pop() if self.stack() else None)

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:
        code = self._called("cuMemAlloc")
        address = self.number() << 16
        if code == OK:
            self.blocks[address] = np.full(nbytes, 0xAB, np.uint8)
        return (code, address)

    def cuMemFree(self, address: int) -> tuple[Any, ...]:
        code = self._called("cuMemFree")
        return (code if self.blocks.pop(int(address), None) is not None else INVALID,)

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        code = self._called("cuMemHostAlloc")
        memory = (ctypes.c_uint8 * nbytes)()
        if code == OK:
            self.pinned[ctypes.addressof(memory)] = memory
        return (code, ctypes.addressof(memory))

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:
        code = self._called("cuMemFreeHost")
        return (code if self.pinned.pop(int(address), None) is not None else INVALID,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        code = self._called("cuMemcpyHtoDAsync")
        if code == OK:
            host = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(source))

            def copy() -> None:
                self.read(target, nbytes)[:] = host

            self.enqueue(stream, copy, COPY_MS)
        return (code,)

    def cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        code = self._called("cuMemcpyDtoHAsync")
        if code == OK:
            host = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(target))

            def copy() -> None:
                host[:] = self.read(source, nbytes)

            self.enqueue(stream, copy, COPY_MS)
        return (code,)

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:
        code = self._called("cuStreamCreate")
        assert flags == CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self.number()
        if code == OK:
            self.streams[stream] = []
        return (code, stream)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        code = self._called("cuStreamSynchronize")
        if stream in self.captures:
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,)
        if code == OK:
            pending, self.streams[stream] = self.streams[stream], []
            for work in pending:
                work()
        return (code,)

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        code = self._called("cuStreamDestroy")
        return (code if self.streams.pop(stream, None) is not None else INVALID,)

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:
        code = self._called("cuEventCreate")
        event = self.number()
        if code == OK:
            self.events[event] = None
        return (code, event)

    def cuEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        code = self._called("cuEventRecord")

        def mark() -> None:
            self.events[event] = self.clock_ms

        if code == OK:
            self.enqueue(stream, mark, 0.0)
        return (code,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        code = self._called("cuEventElapsedTime")
        first, last = self.events[start], self.events[end]
        if first is None or last is None:
            return (INVALID, 0.0)
        return (code, last - first)

    def cuEventDestroy(self, event: int) -> tuple[Any, ...]:
        code = self._called("cuEventDestroy")
        known = event in self.events
        self.events.pop(event, None)
        return (code if known else INVALID,)

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        code = self._called("cuStreamBeginCapture")
        assert mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        if code == OK:
            self.captures[stream] = []
        return (code,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        code = self._called("cuStreamEndCapture")
        work = self.captures.pop(stream)
        graph = self.number()
        if code == OK:
            self.graphs[graph] = work
        return (code, graph)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        code = self._called("cuGraphInstantiate")
        executable = self.number()
        if code == OK:
            self.graphs[executable] = self.graphs[graph]
        return (code, executable)

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        code = self._called("cuGraphDestroy")
        return (code if self.graphs.pop(graph, None) is not None else INVALID,)

    def cuGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        code = self._called("cuGraphExecDestroy")
        return (code if self.graphs.pop(graph, None) is not None else INVALID,)

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        code = self._called("cuGraphLaunch")
        if code == OK:
            self.streams[stream].extend(self.graphs[graph])
        return (code,)


class LibcudaDouble:
    """Double of libcuda.so.1 as ctypes loads it."""

    def __init__(self, driver: CudaDriverDouble) -> None:
        self._driver = driver
        self.init_code = 0
        self.name_code = 0

    def cuInit(self, flags: int) -> int:
        return self.init_code

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._driver.devices
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = f"Double GPU {device.value}".encode()
        return self.name_code

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self._driver.capability[attribute - 75]
        return 0

    def cuCtxGetCurrent(self, context: Any) -> int:
        stack = self._driver.stack()
        context._obj.value = stack[-1] if stack else None
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        context._obj.value = self._driver.stack().pop()
        return 0
