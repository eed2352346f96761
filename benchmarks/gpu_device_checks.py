"""Checks of the runtime's own device layer on a real GPU: memory, copies, streams, events and graphs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from cada_edge.benchmarks.gpu_outcomes import NotPossible
from cada_edge.errors import CheckFailedError, ClosedError, MissingExtraError
from cada_edge.runtime.cuda_calls import CudaCalls, choose_calls
from cada_edge.runtime.cuda_device import CudaDevice, Stream

__all__ = ["check_binding", "exercise"]

_SMALL = 1 << 20
_REPEATS = 20


def check_binding(binding: str) -> Mapping[str, Any]:
    """Run the device layer for real through one package.

    Args:
        binding: 'cuda-bindings' or 'pycuda'.

    Raises:
        NotPossible: The package is missing.
        CheckFailedError: Bytes came back changed, or a closed device was not refused.
        CudaError: A call of the driver failed.
    """
    try:
        calls = choose_calls(binding)
    except MissingExtraError as error:
        raise NotPossible(str(error)) from error
    return exercise(calls)


def exercise(calls: CudaCalls, *, block_bytes: int = 64 << 20) -> Mapping[str, Any]:
    """Allocate, copy there and back, take times, capture a graph and replay it, and close.

    Args:
        calls: Of one binding.
        block_bytes: Of the copies whose rate is measured.

    Returns:
        gpu, binding, to_device_gb_s, to_host_gb_s (pinned memory, by events), round_trip_us of a mebibyte
        enqueued call by call, and graph_round_trip_us of the same as a graph, None without graphs.

    Raises:
        CheckFailedError: Bytes came back changed, or a closed device was not refused.
        CudaError: A call of the driver failed.
    """
    device = CudaDevice(calls)
    device.open()
    try:
        with device.current():
            figures = {**_copies(device, block_bytes), **_round_trips(device)}
    finally:
        device.close()
    try:
        with device.current():
            raise CheckFailedError("A closed device could be used; wanted a ClosedError.")
    except ClosedError:
        pass
    return {"gpu": device.name, "binding": device.binding, **figures}


def _copies(device: CudaDevice, nbytes: int) -> dict[str, float]:
    stream, marks = device.stream(), [device.event() for _ in range(3)]
    memory = device.allocate(nbytes)
    there, back = device.pinned((nbytes,), np.uint8), device.pinned((nbytes,), np.uint8)
    there[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    for _ in range(2):  # the first round warms up
        device.record(marks[0], stream)
        device.copy_to_device(memory, there, stream)
        device.record(marks[1], stream)
        device.copy_to_host(back, memory, stream)
        device.record(marks[2], stream)
        device.synchronize(stream)
    _compare(there, back, "a copy")
    rates = [nbytes / 1e6 / device.elapsed_ms(*marks[start : start + 2]) for start in (0, 1)]
    for resource in (memory, there, back, *marks, stream):
        device.free(resource)
    return {"to_device_gb_s": rates[0], "to_host_gb_s": rates[1]}


def _round_trips(device: CudaDevice) -> dict[str, float | None]:
    stream = device.stream()
    memory = device.allocate(_SMALL)
    there, back = device.pinned((_SMALL,), np.uint8), device.pinned((_SMALL,), np.uint8)

    def enqueue() -> None:
        device.copy_to_device(memory, there, stream)
        device.copy_to_host(back, memory, stream)

    def timed_us(work: Any) -> float:
        taken = []
        for turn in range(_REPEATS):
            there[:] = turn
            back[:] = 255
            started = time.perf_counter()
            work()
            device.synchronize(stream)
            taken.append((time.perf_counter() - started) * 1e6)
            _compare(there, back, "a round trip")
        return float(np.median(taken))

    plain = timed_us(enqueue)
    if not device.has_graphs:
        return {"round_trip_us": plain, "graph_round_trip_us": None}
    graph = device.capture(stream, enqueue)
    _recovers(device, stream)
    return {"round_trip_us": plain, "graph_round_trip_us": timed_us(lambda: device.launch(graph, stream))}


def _recovers(device: CudaDevice, stream: Stream) -> None:
    """Check that a capture that failed leaves the stream as it was."""

    def fail() -> None:
        raise ZeroDivisionError

    try:
        device.capture(stream, fail)
    except ZeroDivisionError:
        device.synchronize(stream)
        return
    raise CheckFailedError("An error inside a capture was swallowed; wanted it to go through.")


def _compare(sent: np.ndarray[Any, Any], got: np.ndarray[Any, Any], what: str) -> None:
    changed = int(np.count_nonzero(sent != got))
    if changed:
        raise CheckFailedError(f"{changed} of {sent.size} bytes of {what} through the GPU came back changed.")
