"""What a package that drives the GPU must be able to do, and the choice of one."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, MissingExtraError

__all__ = ["BINDINGS", "CudaCalls", "choose_calls"]

_log = logging.getLogger(__name__)

BINDINGS = ("auto", "cuda-bindings", "pycuda")
"""Names that `choose_calls` takes."""


class CudaCalls(Protocol):
    """What a binding must be able to do; the context is current in every call but the first group's.

    Each call raises `CudaError` with the driver's code when it fails.
    """

    @property
    def binding(self) -> str:
        """Package and version, as 'cuda-bindings 13.5.0'."""
        ...

    @property
    def has_graphs(self) -> bool:
        """Whether it can capture CUDA graphs."""
        ...

    def retain(self, ordinal: int) -> tuple[str, tuple[int, int]]:
        """Start the driver and retain a GPU's primary context; return its name and compute capability."""
        ...

    def push(self) -> None:
        """Make the context current in this thread."""

    def pop(self) -> None:
        """Make the context current no longer."""

    def release(self) -> None:
        """Let go of the primary context."""

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        """Allocate device memory; return address and handle."""
        ...

    def free(self, handle: Any) -> None:
        """Free device memory."""

    def pinned(self, nbytes: int) -> tuple[NDArray[np.uint8], Any]:
        """Allocate page-locked host memory; return it as uint8 (nbytes,), and a handle."""
        ...

    def free_pinned(self, handle: Any) -> None:
        """Free page-locked memory: arrays on it must not be used any more."""

    def copy_to_device(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous host array into device memory."""

    def copy_to_host(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy device memory into a contiguous host array."""

    def stream(self) -> tuple[int, Any]:
        """Make a non-blocking stream; return its number and handle."""
        ...

    def synchronize(self, handle: Any) -> None:
        """Wait for a stream's work."""

    def destroy_stream(self, handle: Any) -> None:
        """Destroy a stream."""

    def event(self) -> Any:
        """Make an event that takes the time."""

    def record(self, event: Any, stream: Any) -> None:
        """Put a mark into a stream."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the time between two marks that the device has passed."""
        ...

    def destroy_event(self, handle: Any) -> None:
        """Destroy an event."""

    def begin_capture(self, stream: Any) -> None:
        """Capture what this thread enqueues from now on, instead of running it."""

    def end_capture(self, stream: Any) -> Any:
        """End the capture and return the executable graph."""

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueue a graph."""

    def destroy_graph(self, handle: Any) -> None:
        """Destroy a graph."""


def choose_calls(binding: str = "auto") -> CudaCalls:
    """Choose the package that drives the GPU: cuda-bindings where it is installed, else PyCUDA.

    Args:
        binding: One of `BINDINGS`.

    Raises:
        ConfigError: Unknown name.
        MissingExtraError: Neither, or not the wanted one, is installed.
    """
    if binding not in BINDINGS:
        raise ConfigError(f"CUDA binding {binding!r} came; wanted one of {', '.join(BINDINGS)}.")
    if binding in ("auto", "cuda-bindings"):
        try:
            driver = import_module("cuda.bindings.driver")
        except ImportError as error:
            _log.debug("cuda-bindings cannot be used: %s", error)
            if binding != "auto":
                raise MissingExtraError("This CUDA binding", "cuda-bindings", "tensorrt") from error
        else:
            from cada_edge.runtime.cuda_device_bindings import BindingsCalls

            return BindingsCalls(driver)
    try:
        driver = import_module("pycuda.driver")
    except ImportError as error:
        if binding == "auto":
            raise MissingExtraError("Running a TensorRT engine", "cuda-bindings", "tensorrt") from error
        raise MissingExtraError("This CUDA binding", "pycuda", "jetson") from error
    from cada_edge.runtime.cuda_device_pycuda import PycudaCalls

    return PycudaCalls(driver)
