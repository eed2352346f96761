"""The driver asked through ctypes: every way in which it can be missing has a remedy."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from cada_edge.errors import CudaError
from cada_edge.runtime.cuda_driver import DriverInfo, gpus, load_driver, require_gpu, restored_context


def test_a_driver_with_a_gpu(cuda_double: Any) -> None:
    cuda_double.devices = 2
    assert require_gpu() == DriverInfo((12, 6), 2)
    assert cuda_double.held() == 0


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(
        CudaError, match=r"There is no CUDA driver: libcuda.*Install it.*run the \.onnx"
    ) as info:
        load_driver()
    assert info.value.exit_code == 3


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (100, "It sees no GPU, or CUDA_VISIBLE_DEVICES hides it"),
        (802, "nvidia-fabricmanager"),
        (803, "differ in version: restart"),
        (804, "cuda-compat"),
        (999, "The kernel module may be gone"),
        (3, "install the driver again"),
    ],
)
def test_a_driver_that_does_not_start(cuda_double: Any, code: int, remedy: str) -> None:
    cuda_double.libcuda.init_code = code
    with pytest.raises(CudaError, match=rf"cuInit gave {code}; wanted 0\. .*{remedy}"):
        require_gpu()


def test_a_driver_without_a_gpu(cuda_double: Any) -> None:
    cuda_double.devices = 0
    with pytest.raises(CudaError, match=r"sees 0 GPUs .*wanted at least one.*nvidia-smi"):
        require_gpu()


def test_every_gpu_is_named(cuda_double: Any) -> None:
    cuda_double.devices = 2
    assert gpus() == [("Double GPU 0", (8, 7)), ("Double GPU 1", (8, 7))]


def test_a_gpu_that_is_not_described(cuda_double: Any) -> None:
    cuda_double.libcuda.name_code = 1
    with pytest.raises(CudaError, match=r"does not describe GPU 0 \(codes \(0, 1, 0, 0\)\).*Restart"):
        gpus()


@pytest.mark.parametrize("before", [[], [7], [7, 8]])
def test_the_context_is_left_as_it_was(cuda_double: Any, before: list[int]) -> None:
    cuda_double.stack().extend(before)

    def spoil() -> None:
        cuda_double.stack().extend([1, 2])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), restored_context():
        spoil()
    assert cuda_double.stack() == before
