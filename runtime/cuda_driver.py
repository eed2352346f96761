"""The CUDA driver, asked through ctypes: whether there is one and a GPU, before any CUDA package is loaded.

Without a GPU TensorRT's own functions end the process or give None, depending on the library; so the driver
is asked first, and what is missing becomes an error with its remedy.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cada_edge.errors import CudaError

__all__ = ["DriverInfo", "gpus", "load_driver", "require_gpu", "restored_context"]

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_NO_GPU = (
    "Check with nvidia-smi (on a Jetson: tegrastats); in a container, start it with '--gpus all' or, on a "
    "Jetson, '--runtime nvidia'. Without a GPU, run the .onnx model instead."
)

# CUresult values of cuInit, from CUDA's driver API.
_REMEDIES = {
    100: f"It sees no GPU, or CUDA_VISIBLE_DEVICES hides it. {_NO_GPU}",
    802: "The system is not ready: start nvidia-fabricmanager, or restart the machine.",
    803: "The driver's library and its kernel module differ in version: restart the machine.",
    804: "The CUDA compatibility package does not know this GPU: remove cuda-compat, or update the driver.",
    999: "The kernel module may be gone, as after an update or a sleep: restart the machine.",
}

# CUdevice_attribute, from CUDA's driver API.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class DriverInfo(NamedTuple):
    """What the driver says of itself."""

    cuda_version: tuple[int, int]
    """Newest CUDA that it supports, as (12, 6)."""
    devices: int
    """GPUs that it sees."""


def load_driver() -> Any:
    """Load the driver's library.

    Raises:
        CudaError: It is not on this machine.
    """
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise CudaError(
            f"There is no CUDA driver: {_LIBRARY} cannot be loaded ({error}). Wanted the NVIDIA driver, "
            f"which a .engine model needs. Install it and restart the machine. {_NO_GPU}"
        ) from error


def require_gpu(load: Callable[[], Any] = load_driver) -> DriverInfo:
    """Check that a driver and a GPU are there. It makes no context and takes no GPU memory.

    Args:
        load: What loads the driver's library.

    Raises:
        CudaError: There is no driver, it does not start, or it sees no GPU.
    """
    driver = load()
    code = int(driver.cuInit(0))
    if code != 0:
        remedy = _REMEDIES.get(code, "Restart the machine, or install the driver again.")
        raise CudaError(f"The CUDA driver does not start: cuInit gave {code}; wanted 0. {remedy}")
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    code = int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if code != 0 or count.value < 1:
        raise CudaError(
            f"The CUDA driver sees {count.value} GPUs (code {code}); wanted at least one. {_NO_GPU}"
        )
    driver.cuDriverGetVersion(ctypes.byref(version))
    return DriverInfo((version.value // 1000, version.value % 1000 // 10), count.value)


def gpus(load: Callable[[], Any] = load_driver) -> list[tuple[str, tuple[int, int]]]:
    """Name every GPU with its compute capability, after `require_gpu`.

    Args:
        load: What loads the driver's library.

    Raises:
        CudaError: The driver does not tell.
    """
    driver = load()
    found = []
    for ordinal in range(require_gpu(lambda: driver).devices):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(0), ctypes.c_int(0)
        codes = (
            int(driver.cuDeviceGet(ctypes.byref(device), ordinal)),
            int(driver.cuDeviceGetName(name, 256, device)),
            int(driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)),
            int(driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)),
        )
        if any(codes):
            raise CudaError(
                f"The CUDA driver does not describe GPU {ordinal} (codes {codes}); wanted name and compute "
                "capability. Restart the machine, or install the driver again."
            )
        found.append((name.value.decode(errors="replace"), (major.value, minor.value)))
    return found


@contextmanager
def restored_context(load: Callable[[], Any] = load_driver) -> Iterator[None]:
    """Leave the thread's current CUDA context as it was, whatever the block does to it.

    PyCUDA pushes a primary context while it lets go of it and does not pop it again: the application would
    go on with a dead context on its stack.

    Args:
        load: What loads the driver's library.
    """
    driver = load()
    before = _current_context(driver)
    try:
        yield
    finally:
        popped = ctypes.c_void_p()
        while _current_context(driver) not in (None, before):
            if int(driver.cuCtxPopCurrent_v2(ctypes.byref(popped))) != 0:
                break


def _current_context(driver: Any) -> int | None:
    context = ctypes.c_void_p()
    driver.cuCtxGetCurrent(ctypes.byref(context))
    return context.value
