"""Double of pycuda.driver over the double of the CUDA driver (cuda_double.py)."""

from __future__ import annotations

from typing import Any

import numpy as np


class PycudaDriverDouble:
    """Double of the module pycuda.driver, over the driver's double."""

    class Error(Exception):
        """Root of PyCUDA's errors."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def _do(self, result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise self.Error(f"{self._driver.calls[-1]} failed: {result[0].name}")
        return result[1] if len(result) > 1 else None

    def init(self) -> None:
        if self._driver.devices == 0:
            # Python's own, as PyCUDA raises where there is a driver and no device.
            raise RuntimeError("cuInit failed: no CUDA-capable device is detected")
        self._do(self._driver.cuInit(0))

    def Device(self, ordinal: int) -> Any:
        return _PycudaDevice(self, self._driver, self._do(self._driver.cuDeviceGet(ordinal)))

    def mem_alloc(self, nbytes: int) -> Any:
        return _PycudaMemory(self, self._driver, self._do(self._driver.cuMemAlloc(nbytes)))

    def pagelocked_empty(self, nbytes: int, dtype: Any) -> np.ndarray:
        array = np.asarray(_PycudaPinned(self, self._driver, nbytes))
        assert array.dtype == dtype
        return array

    def Stream(self, flags: int) -> Any:
        return _PycudaStream(self, self._driver, self._do(self._driver.cuStreamCreate(flags)))

    def Event(self) -> Any:
        return _PycudaEvent(self, self._driver, self._do(self._driver.cuEventCreate(0)))

    def memcpy_htod_async(self, target: int, source: np.ndarray, stream: Any) -> None:
        copied = self._driver.cuMemcpyHtoDAsync(target, source.ctypes.data, source.nbytes, stream.handle)
        self._do(copied)

    def memcpy_dtoh_async(self, target: np.ndarray, source: int, stream: Any) -> None:
        copied = self._driver.cuMemcpyDtoHAsync(target.ctypes.data, source, target.nbytes, stream.handle)
        self._do(copied)


class _PycudaObject:
    def __init__(self, module: PycudaDriverDouble, driver: Any, handle: int) -> None:
        self._module, self._driver, self.handle = module, driver, handle


class _PycudaDevice(_PycudaObject):
    def name(self) -> str:
        return "Double GPU"

    def compute_capability(self) -> tuple[int, int]:
        major, minor = self._driver.capability
        return int(major), int(minor)

    def retain_primary_context(self) -> Any:
        retained = self._driver.cuDevicePrimaryCtxRetain(self.handle)
        return _PycudaContext(self._module, self._driver, self._module._do(retained))


class _PycudaContext(_PycudaObject):
    def push(self) -> None:
        self._module._do(self._driver.cuCtxPushCurrent(self.handle))

    def pop(self) -> None:
        self._module._do(self._driver.cuCtxPopCurrent())

    def detach(self) -> None:
        # As PyCUDA does it: the primary context is pushed to be released, and stays on the stack.
        self._module._do(self._driver.cuCtxPushCurrent(self.handle))
        self._module._do(self._driver.cuDevicePrimaryCtxRelease(0))


class _PycudaMemory(_PycudaObject):
    def __int__(self) -> int:
        return self.handle

    def free(self) -> None:
        self._module._do(self._driver.cuMemFree(self.handle))


class _PycudaPinned(_PycudaObject):
    def __init__(self, module: PycudaDriverDouble, driver: Any, nbytes: int) -> None:
        super().__init__(module, driver, module._do(driver.cuMemHostAlloc(nbytes, 0)))
        self.__array_interface__ = {
            "version": 3,
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self.handle, False),
        }

    def free(self) -> None:
        self._module._do(self._driver.cuMemFreeHost(self.handle))


class _PycudaStream(_PycudaObject):
    def synchronize(self) -> None:
        self._module._do(self._driver.cuStreamSynchronize(self.handle))

    def __del__(self) -> None:
        self._driver.cuStreamDestroy(self.handle)


class _PycudaEvent(_PycudaObject):
    def record(self, stream: Any) -> None:
        self._module._do(self._driver.cuEventRecord(self.handle, stream.handle))

    def time_till(self, other: _PycudaEvent) -> float:
        return float(self._module._do(self._driver.cuEventElapsedTime(self.handle, other.handle)))

    def __del__(self) -> None:
        self._driver.cuEventDestroy(self.handle)
