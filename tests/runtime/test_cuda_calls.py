"""The choice of the package that drives the GPU, and what the real cuda-bindings has of it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from cada_edge.errors import ConfigError, CudaError, MissingExtraError
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_device import CudaDevice


def test_cuda_bindings_comes_first_and_pycuda_stands_in(
    cuda_double: Any, pycuda_double: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_calls().binding.startswith("cuda-bindings")
    assert choose_calls("pycuda").binding.startswith("pycuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    assert choose_calls().binding.startswith("pycuda")
    with pytest.raises(MissingExtraError, match=r"'cuda-bindings', .*cada-edge\[tensorrt\]"):
        choose_calls("cuda-bindings")
    # Where there is no driver, importing pycuda.driver raises ImportError as well.
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingExtraError, match=r"'pycuda', .*cada-edge\[jetson\]"):
        choose_calls("pycuda")
    with pytest.raises(MissingExtraError, match=r"Running a TensorRT engine needs .*'cuda-bindings'"):
        choose_calls()


def test_an_unknown_binding_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="CUDA binding 'cupy' came; wanted one of auto, cuda-bindings, pycuda"
    ):
        choose_calls("cupy")


def test_the_double_has_the_names_of_the_real_cuda_bindings(cuda_double: Any, pycuda_double: Any) -> None:
    sys.modules.pop("cuda.bindings.driver")
    real = pytest.importorskip(
        "cuda.bindings.driver", reason="cuda-bindings: pip install 'cada-edge[tensorrt]'"
    )
    ours = [name for name in dir(cuda_double) if name.startswith(("cu", "CU")) and name != "cuda"]
    assert len(ours) > 25
    assert [name for name in ours if not hasattr(real, name)] == []
    for enumeration in ("CUresult", "CUstream_flags", "CUstreamCaptureMode", "CUdevice_attribute"):
        for member in getattr(cuda_double, enumeration):
            assert int(getattr(getattr(real, enumeration), member.name)) == int(member)


def test_cuda_bindings_without_a_driver_is_a_typed_error() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="pip install 'cada-edge[tensorrt]'")
    try:
        code = int(driver.cuInit(0)[0])
    except RuntimeError:
        code = -1
    if code == 0:
        pytest.skip("this machine has a driver")
    with pytest.raises(CudaError, match=r"finds no CUDA driver|cuInit failed"):
        CudaDevice(choose_calls("cuda-bindings")).open()
