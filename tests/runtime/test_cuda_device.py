"""The device layer against doubles of the driver (cuda_double.py): no CUDA is needed, none is proven."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ClosedError, CudaError, ThreadOwnerError
from cada_edge.runtime.cuda_calls import choose_calls
from cada_edge.runtime.cuda_device import CudaDevice, Memory

BOTH = pytest.mark.parametrize("binding", ["cuda-bindings", "pycuda"])


@pytest.fixture
def device(request: pytest.FixtureRequest, cuda_double: Any, pycuda_double: Any) -> CudaDevice:
    """An open device over a double; cuda-bindings unless the test names another binding."""
    binding = (
        request.node.callspec.params.get("binding", "auto") if hasattr(request.node, "callspec") else "auto"
    )
    device = CudaDevice(choose_calls(binding))
    device.open()
    return device


def _in_thread(work: Callable[[], Any]) -> BaseException | None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    thread.join()
    return caught[0] if caught else None


@BOTH
def test_a_device_says_what_it_is(device: CudaDevice, binding: str) -> None:
    assert (device.name, device.compute_capability) == ("Double GPU", (8, 7))
    assert device.binding.startswith(binding)
    assert device.has_graphs == (binding == "cuda-bindings")


@BOTH
def test_bytes_go_to_the_device_and_back_in_the_streams_order(
    device: CudaDevice, binding: str, cuda_double: Any
) -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    with device.current():
        stream, memory = device.stream(), device.allocate(sent.nbytes)
        source, target = device.pinned((3, 4), np.float32), device.pinned((3, 4), np.float32)
        start, middle, end = (device.event() for _ in range(3))
        source[:], target[:] = sent, -1
        device.record(start, stream)
        device.copy_to_device(memory, source, stream)
        device.record(middle, stream)
        device.copy_to_host(target, memory, stream)
        device.copy_to_host(target, memory, stream)
        device.record(end, stream)
        assert (target == -1).all(), "the double runs nothing before the stream is synchronised"
        device.synchronize(stream)
        assert (target == sent).all()
        assert (device.elapsed_ms(start, middle), device.elapsed_ms(middle, end)) == (1.0, 2.0)
    device.close()
    assert cuda_double.held() == 0


@BOTH
def test_closing_frees_everything_and_twice_is_harmless(
    device: CudaDevice, binding: str, cuda_double: Any
) -> None:
    with device.current():
        kept = [device.stream(), device.event(), device.allocate(5), device.pinned((2,), np.uint8)]
        device.free(device.allocate(7))
    assert cuda_double.held() == len(kept) + 1
    device.close()
    calls = len(cuda_double.calls)
    device.close()
    assert len(cuda_double.calls) == calls
    assert (cuda_double.held(), cuda_double.stack()) == (0, [])
    with pytest.raises(ClosedError, match=r"CUDA device 0 is not open \(closed\)"), device.current():
        pass
    with pytest.raises(ClosedError, match="Make a new CudaDevice"):
        device.open()


@BOTH
def test_an_applications_own_context_stays_current(
    binding: str, cuda_double: Any, pycuda_double: Any
) -> None:
    cuda_double.stack().append(0xA99)
    device = CudaDevice(choose_calls(binding))
    device.open()
    assert cuda_double.stack() == [0xA99]
    with device.current():
        assert cuda_double.stack() == [0xA99, cuda_double.CONTEXT]
    device.close()
    assert cuda_double.stack() == [0xA99]


@BOTH
def test_an_exception_inside_leaves_the_context_clean(
    device: CudaDevice, binding: str, cuda_double: Any
) -> None:
    with pytest.raises(ZeroDivisionError), device.current(), device.current():
        raise ZeroDivisionError
    assert cuda_double.stack() == []
    with device.current():
        device.allocate(1)
    device.close()
    assert cuda_double.held() == 0


@BOTH
def test_another_thread_is_refused_and_changes_nothing(
    device: CudaDevice, binding: str, cuda_double: Any
) -> None:
    def use() -> None:
        with device.current():
            pass

    for work in (use, device.close, device.open, lambda: device.allocate(1)):
        error = _in_thread(work)
        assert isinstance(error, ThreadOwnerError)
        assert "The thread 'worker' used CUDA device 0, which the thread 'MainThread' opened" in str(error)
        assert "Make a Detector inside each thread" in str(error)
    assert not any(stack for stack in cuda_double.stacks.values())
    with device.current():
        device.allocate(1)
    device.close()
    assert cuda_double.held() == 0


@BOTH
@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("cuMemAlloc", lambda device: device.allocate(1)),
        ("cuMemHostAlloc", lambda device: device.pinned((1,), np.uint8)),
        ("cuStreamCreate", lambda device: device.stream()),
        ("cuEventCreate", lambda device: device.event()),
        ("cuStreamSynchronize", lambda device: device.synchronize(device.stream())),
        ("cuEventRecord", lambda device: device.record(device.event(), device.stream())),
        ("cuEventElapsedTime", lambda device: device.elapsed_ms(device.event(), device.event())),
        (
            "cuMemcpyHtoDAsync",
            lambda device: device.copy_to_device(
                device.allocate(1), device.pinned((1,), np.uint8), device.stream()
            ),
        ),
        (
            "cuMemcpyDtoHAsync",
            lambda device: device.copy_to_host(
                device.pinned((1,), np.uint8), device.allocate(1), device.stream()
            ),
        ),
        ("cuCtxPushCurrent", lambda device: device.current().__enter__()),
        ("cuMemFree", lambda device: device.free(device.allocate(1))),
        ("cuMemFreeHost", lambda device: device.free(device.pinned((1,), np.uint8))),
    ],
)
def test_each_failing_call_is_a_typed_error(
    device: CudaDevice, binding: str, cuda_double: Any, call: str, use: Callable[[CudaDevice], Any]
) -> None:
    with device.current():
        cuda_double.fail[call] = 1
        with pytest.raises(CudaError, match=r"failed.*(GPU|doctor)"):
            use(device)
    assert cuda_double.stack() == []
    device.close()


@BOTH
@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_a_device_that_cannot_be_opened(
    binding: str, cuda_double: Any, pycuda_double: Any, call: str
) -> None:
    cuda_double.fail[call] = 1
    device = CudaDevice(choose_calls(binding))
    with pytest.raises(CudaError, match="failed"):
        device.open()
    assert cuda_double.held() == 0
    device.close()


def test_what_can_be_freed_is_freed_when_a_part_fails(device: CudaDevice, cuda_double: Any) -> None:
    with device.current():
        device.allocate(1)
        device.allocate(1)
    cuda_double.fail["cuMemFree"] = 1
    with pytest.raises(CudaError, match=r"cuMemFree failed with CUDA_ERROR_INVALID_VALUE \(1\)"):
        device.close()
    assert cuda_double.calls.count("cuMemFree") == 2
    assert (cuda_double.retained, cuda_double.stack()) == (0, [])


def test_a_release_that_fails_is_told(device: CudaDevice, cuda_double: Any) -> None:
    cuda_double.fail["cuDevicePrimaryCtxRelease"] = 1
    with pytest.raises(CudaError, match="cuDevicePrimaryCtxRelease"):
        device.close()
    device.close()


def test_out_of_memory_has_its_remedy(device: CudaDevice, cuda_double: Any) -> None:
    cuda_double.fail["cuMemAlloc"] = 1
    with device.current(), pytest.raises(CudaError, match=r"OUT_OF_MEMORY \(2\).*smaller batches"):
        device.allocate(1)
    device.close()


def test_use_outside_of_current_is_refused(device: CudaDevice) -> None:
    with pytest.raises(CudaError, match=r"its context is not current.*'with device\.current\(\):'"):
        device.allocate(1)
    device.close()


def test_each_thing_is_freed_once(device: CudaDevice) -> None:
    with device.current():
        memory = device.allocate(1)
        device.free(memory)
        with pytest.raises(
            CudaError, match=r"A Memory came that CUDA device 0 does not hold.*Free each once"
        ):
            device.free(memory)
    device.close()


def test_copies_beyond_a_block_are_refused(device: CudaDevice) -> None:
    with device.current():
        stream, memory = device.stream(), device.allocate(8)
        square = device.pinned((3, 3), np.uint8)
        copies: list[Callable[[], None]] = [
            lambda: device.copy_to_device(memory, square, stream),
            lambda: device.copy_to_host(square, memory, stream),
            lambda: device.copy_to_device(Memory(0, 100, None), square.T, stream),
        ]
        for copy in copies:
            with pytest.raises(CudaError, match="wanted a contiguous one that fits"):
                copy()
    device.close()


def test_a_graph_runs_what_was_captured_each_time_it_is_launched(device: CudaDevice) -> None:
    with device.current():
        stream, memory = device.stream(), device.allocate(1)
        source, target = device.pinned((1,), np.uint8), device.pinned((1,), np.uint8)

        def enqueue() -> None:
            device.copy_to_device(memory, source, stream)
            device.copy_to_host(target, memory, stream)

        source[0], target[0] = 1, 0
        graph = device.capture(stream, enqueue)
        device.synchronize(stream)
        assert target[0] == 0, "captured, not run"
        for value in (3, 4):
            source[0] = value
            device.launch(graph, stream)
            device.synchronize(stream)
            assert target[0] == value
        device.free(graph)
    device.close()


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "enqueue"]
)
def test_a_failed_capture_leaves_the_stream_usable(device: CudaDevice, cuda_double: Any, call: str) -> None:
    with device.current():
        stream, memory = device.stream(), device.allocate(1)
        host = device.pinned((1,), np.uint8)
        before = cuda_double.held()

        def enqueue() -> None:
            if call == "enqueue":
                raise CudaError("the work itself failed")
            device.copy_to_device(memory, host, stream)

        cuda_double.fail[call] = 1
        with pytest.raises(CudaError, match="failed"):
            device.capture(stream, enqueue)
        cuda_double.fail.clear()
        assert cuda_double.held() == before
        host[0] = 9
        device.copy_to_device(memory, host, stream)
        host_again = device.pinned((1,), np.uint8)
        device.copy_to_host(host_again, memory, stream)
        device.synchronize(stream)
        assert host_again[0] == 9
    device.close()


@pytest.mark.parametrize("binding", ["pycuda"])
def test_pycuda_has_no_graphs(device: CudaDevice, binding: str) -> None:
    with device.current():
        stream = device.stream()
        with pytest.raises(CudaError, match=r"pycuda.* has no CUDA graphs.*Install cuda-bindings"):
            device.capture(stream, lambda: None)
        calls = choose_calls("pycuda")
        for use in (
            lambda: calls.begin_capture(0),
            lambda: calls.end_capture(0),
            lambda: calls.launch(0, 0),
            lambda: calls.destroy_graph(0),
        ):
            with pytest.raises(CudaError, match="PyCUDA has no CUDA graphs"):
                use()
    device.close()


@pytest.mark.gpu
@BOTH
def test_the_real_thing(binding: str) -> None:
    package = {"cuda-bindings": "cuda.bindings.driver", "pycuda": "pycuda.driver"}[binding]
    pytest.importorskip(package, reason=f"{binding} is not installed", exc_type=ImportError)
    from cada_edge.runtime.cuda_driver import require_gpu

    assert require_gpu().devices >= 1
    device = CudaDevice(choose_calls(binding))
    device.open()
    sent = np.random.default_rng(0).integers(0, 256, (1 << 20,), np.uint8)
    with device.current():
        stream, memory = device.stream(), device.allocate(sent.nbytes)
        source, target = device.pinned(sent.shape, np.uint8), device.pinned(sent.shape, np.uint8)
        start, end = device.event(), device.event()

        def enqueue() -> None:
            device.copy_to_device(memory, source, stream)
            device.copy_to_host(target, memory, stream)

        source[:] = sent
        device.record(start, stream)
        enqueue()
        device.record(end, stream)
        device.synchronize(stream)
        assert (target == sent).all()
        assert 0 < device.elapsed_ms(start, end) < 1000
        if device.has_graphs:
            graph = device.capture(stream, enqueue)
            source[:] = ~sent
            device.launch(graph, stream)
            device.synchronize(stream)
            assert (target == ~sent).all()
    device.close()
    device.close()
