"""The TensorRT backend against doubles of TensorRT and of the CUDA driver: its logic, no TensorRT.

The doubles (tensorrt_double.py, cuda_double.py) execute the graph with ONNX Runtime on host memory.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge import Detector
from cada_edge.errors import (
    BackendError,
    ClosedError,
    CudaError,
    ModelMismatchError,
    ThreadOwnerError,
)
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.backend_tensorrt import TensorRTBackend
from cada_edge.runtime.parity import verify

SIDE = 16
"""Of the tiny model's frames."""


def _frames(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def _check(outputs: Any, frames: np.ndarray) -> None:
    """Hold outputs against numpy: the tiny model's map is the mean of the channels."""
    maps = frames.astype(np.float64).mean(3) / 255
    np.testing.assert_allclose(outputs.anomaly_map, maps, atol=1e-6)
    np.testing.assert_allclose(outputs.score, maps.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(outputs.stats, np.tile([0.1, 0.6], (len(frames), 1)), atol=1e-6)
    assert {each.dtype for each in outputs} == {np.dtype(np.float32)}


@pytest.fixture
def backend(tiny_engine: Path, tensorrt_double: Any) -> TensorRTBackend:
    """An open backend over the doubles, whose profile takes 1 to 4 frames."""
    backend = TensorRTBackend(tiny_engine)
    backend.open()
    return backend


def _is_clean(driver: Any, trt: Any) -> bool:
    gc.collect()
    assert not [line for line in trt.log if line.endswith("False")], trt.log
    return driver.held() == 0 and trt.alive == [] and not any(driver.stacks.values())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_known_numbers(backend: TensorRTBackend, cuda_double: Any, tensorrt_double: Any, count: int) -> None:
    assert backend.spec.name == "frames"
    assert backend.spec.size_hw == (SIDE, SIDE)
    for seed in range(4):
        frames = _frames(count, seed=seed)
        _check(backend.infer(frames), frames)
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


@pytest.mark.parametrize("batches", [[1, 4, 2, 4], [4, 1, 1, 1, 2, 2], [9], [5, 1], [3, 3, 8, 3]])
def test_batches_change_and_large_ones_run_in_parts(backend: TensorRTBackend, batches: list[int]) -> None:
    for seed, count in enumerate(batches):
        frames = _frames(count, seed=seed)
        _check(backend.infer(frames), frames)
    backend.close()


def test_a_batch_below_the_profiles_is_filled_up(tiny_engine: Path, tensorrt_double: Any) -> None:
    tensorrt_double.profile = (3, 3, 4)
    backend = TensorRTBackend(tiny_engine)
    backend.open()
    for count in (4, 1, 2, 7):
        frames = _frames(count)
        _check(backend.infer(frames), frames)
    backend.close()


def test_the_caller_owns_the_outputs(backend: TensorRTBackend) -> None:
    first = backend.infer(_frames(2, seed=1))
    kept = [array.copy() for array in first]
    backend.infer(_frames(2, seed=2))
    backend.close()
    for array, copy in zip(first, kept, strict=True):
        assert array.flags.owndata or array.base is None
        np.testing.assert_array_equal(array, copy)


def test_frames_may_be_read_only_and_not_contiguous(backend: TensorRTBackend) -> None:
    frames = np.broadcast_to(_frames(1), (3, SIDE, SIDE, 3))
    _check(backend.infer(frames), frames)
    backend.close()


def test_the_graph_is_captured_at_loading_and_again_after_another_batch(
    backend: TensorRTBackend, cuda_double: Any
) -> None:
    def captures() -> int:
        return int(cuda_double.calls.count("cuStreamBeginCapture"))

    def launches() -> int:
        return int(cuda_double.calls.count("cuGraphLaunch"))

    assert (captures(), launches()) == (1, 1)
    backend.infer(_frames(1))
    assert (captures(), launches()) == (1, 2)
    assert backend.description == f"tensorrt 10.3.0 Double GPU ({_binding()}, CUDA graph)"
    backend.infer(_frames(2))
    assert (captures(), launches()) == (1, 2), "the first run with a shape is a plain one"
    backend.infer(_frames(2))
    backend.infer(_frames(2))
    assert (captures(), launches()) == (2, 4)
    assert len(cuda_double.graphs) == 1
    backend.close()


def _binding() -> str:
    from cada_edge.runtime.cuda_calls import choose_calls

    return choose_calls("cuda-bindings").binding


def test_a_capture_that_fails_costs_the_graph_and_nothing_else(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt_double.fail_capture = True
    backend = TensorRTBackend(tiny_engine)
    with caplog.at_level(logging.WARNING):
        backend.open()
    assert "Running without a CUDA graph" in caplog.text
    assert "operation not permitted when stream is capturing" in caplog.text
    for count in (1, 1, 2, 2):
        frames = _frames(count)
        _check(backend.infer(frames), frames)
    assert cuda_double.calls.count("cuStreamBeginCapture") == 1, "it is not tried again"
    assert backend.description.endswith("no CUDA graph: its capture failed)")
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


def test_results_say_when_the_graph_is_gone(tiny_engine: Path, tensorrt_double: Any) -> None:
    with Detector(tiny_engine) as detector:
        assert str(detector(_frames(1)[0]).backend).endswith("CUDA graph)")
        tensorrt_double.fail_capture = True
        detector.batch(list(_frames(2)))
        backends = {each.backend for each in detector.batch(list(_frames(2)))}
    assert backends == {f"tensorrt 10.3.0 Double GPU ({_binding()}, no CUDA graph: its capture failed)"}


def test_pycuda_runs_without_a_graph(
    tiny_engine: Path, tensorrt_double: Any, pycuda_double: Any, cuda_double: Any
) -> None:
    backend = choose_backend(tiny_engine, "tensorrt+pycuda")
    backend.open()
    frames = _frames(3)
    _check(backend.infer(frames), frames)
    assert "pycuda" in backend.description
    assert "no CUDA graph: pycuda" in backend.description
    assert "cuStreamBeginCapture" not in cuda_double.calls
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


def test_stages_are_timed_by_the_devices_clock(backend: TensorRTBackend) -> None:
    backend.infer(_frames(1))
    assert backend.stages_ms == {"host_to_device": 1.0, "compute": 5.0, "device_to_host": 1.0}
    backend.infer(_frames(9))
    assert backend.stages_ms == {"host_to_device": 3.0, "compute": 15.0, "device_to_host": 3.0}
    backend.close()


def test_one_copy_brings_all_outputs(backend: TensorRTBackend, cuda_double: Any) -> None:
    before = cuda_double.calls.count("cuMemcpyDtoHAsync")
    backend.infer(_frames(4))
    assert cuda_double.calls.count("cuMemcpyDtoHAsync") == before + 1
    backend.close()


def test_score_only_leaves_the_map_on_the_gpu(tiny_engine: Path, tensorrt_double: Any) -> None:
    frames = _frames(3)
    backend = TensorRTBackend(tiny_engine, score_only=True)
    backend.open()
    outputs = backend.infer(frames)
    np.testing.assert_allclose(outputs.score, frames.astype(np.float64).mean((1, 2, 3)) / 255, atol=1e-6)
    assert outputs.anomaly_map.shape == (3, 0, 0)
    parts = backend._opened()
    assert parts.layout["anomaly_map"][0] < 1024
    assert (parts.host_output[parts.layout["anomaly_map"][0] :] == 0).all(), "nothing of the map was copied"
    backend.close()
    with Detector(tiny_engine, score_only=True) as detector:
        detection = detector(frames[0])
    assert detection.anomaly_map is None
    assert detection.score == pytest.approx(frames[0].mean() / 255, abs=1e-6)


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt"])
def test_both_modules_take_one_way(
    tiny_model: Path, as_engine: Callable[..., Path], make_tensorrt_double: Callable[..., Any], name: str
) -> None:
    version = {"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"}[name]
    make_tensorrt_double(name, version)
    target = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}[name]
    with Detector(as_engine(tiny_model, target=target, tensorrt_version=version)) as detector:
        assert detector.backend.startswith(f"{name} {version} Double GPU")
        assert detector(np.full((SIDE, SIDE, 3), 51, np.uint8)).score == pytest.approx(0.2, abs=1e-6)


def test_rtx_says_why_an_engine_does_not_fit(
    tiny_model: Path, as_engine: Callable[..., Path], make_tensorrt_double: Callable[..., Any]
) -> None:
    double = make_tensorrt_double("tensorrt_rtx", "1.7.1.116")
    double.fail["get_engine_validity"] = (double.EngineValidity.INVALID, 6)
    engine = as_engine(tiny_model, target="rtx", tensorrt_version="1.7.1.116")
    wanted = r"its check says UNSUPPORTED_CC, OLD_CUDA_DRIVER\..*--target rtx .*--compute-capability 8\.7"
    with pytest.raises(BackendError, match=wanted):
        TensorRTBackend(engine).open()


def test_the_detector_warns_once_of_an_engine_that_was_never_run_and_verify_settles_it(
    tiny_model: Path, as_engine: Callable[..., Path], tensorrt_double: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = as_engine(tiny_model, executed=False)
    with caplog.at_level(logging.WARNING), Detector(engine) as detector:
        detector.batch(list(_frames(2)))
    assert caplog.text.count("have not been checked on a GPU") == 1
    assert f"cada-edge verify {engine}" in caplog.text
    assert verify(engine).backend.startswith("tensorrt 10.3.0 Double GPU")
    caplog.clear()
    with caplog.at_level(logging.WARNING), Detector(as_engine(tiny_model, executed=False)) as detector:
        detector.run(list(_frames(2))).join()  # which opens the engine again, in a thread of its own
        detector(_frames(1)[0])
    assert caplog.text.count("have not been checked on a GPU") == 1
    verify(engine)
    build = Manifest.read(engine).engine
    assert build is not None
    assert build.executed
    caplog.clear()
    with caplog.at_level(logging.WARNING), Detector(engine):
        pass
    assert "GPU" not in caplog.text


def test_detections_carry_the_engines_stages(tiny_engine: Path, tensorrt_double: Any) -> None:
    with Detector(tiny_engine) as detector:
        detection = detector(np.full((40, 30, 3), 204, np.uint8))
    assert detection.score == pytest.approx(0.8, abs=1e-5)
    assert detection.timings_ms["compute"] == 5.0
    assert detection.backend == f"tensorrt 10.3.0 Double GPU ({_binding()}, CUDA graph)"
    assert detection.to_dict()["backend"] == detection.backend
    assert {"host_to_device", "device_to_host", "inference", "total"} <= set(detection.timings_ms)


@pytest.mark.parametrize(
    ("call", "given", "said"),
    [
        ("Runtime", None, "cannot start for"),
        ("deserialize_cuda_engine", None, "cannot deserialise .*the double was told to fail"),
        ("deserialize_cuda_engine", RuntimeError("magic tag"), "cannot deserialise .*magic tag"),
        ("create_execution_context", None, "cannot make a context of .*told to fail in create_exec"),
        ("set_input_shape", False, r"cannot take frames of shape \(4, 16, 16, 3\) in .*told to fail"),
        ("infer_shapes", ["frames"], "cannot infer the shapes of .*frames have none"),
        ("infer_shapes", RuntimeError("no shape"), "cannot infer the shapes of .*no shape"),
        ("set_tensor_address", False, "cannot bind frames of .*told to fail"),
        ("execute_async_v3", False, "cannot run .*told to fail in execute_async_v3"),
    ],
)
def test_each_refusal_while_loading_is_a_typed_error_and_leaves_nothing(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any, call: str, given: Any, said: str
) -> None:
    tensorrt_double.fail[call] = given
    backend = TensorRTBackend(tiny_engine)
    with pytest.raises(
        BackendError, match=said + ".*with: cada-edge export checkpoint.pt --format engine"
    ) as info:
        backend.open()
    assert "not to be shown" not in str(info.value)
    assert "tensorrt 10.3.0" in str(info.value)
    assert _is_clean(cuda_double, tensorrt_double)
    # The same backend works once the cause is gone.
    backend.open()
    frames = _frames(2)
    _check(backend.infer(frames), frames)
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


@pytest.mark.parametrize(
    "call",
    [
        "cuMemAlloc",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
        "cuEventElapsedTime",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent",
    ],
)
def test_each_driver_failure_while_loading_leaves_nothing(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any, call: str
) -> None:
    cuda_double.fail[call] = 1
    backend = TensorRTBackend(tiny_engine)
    with pytest.raises(CudaError, match=call):
        backend.open()
    assert _is_clean(cuda_double, tensorrt_double)
    with pytest.raises(ClosedError, match=r"is not open; call open\(\) first"):
        backend.infer(_frames(1))


@pytest.mark.parametrize(
    "call", ["execute_async_v3", "set_input_shape", "set_tensor_address", "cuGraphLaunch"]
)
def test_a_failure_while_running_does_not_spoil_the_next_frame(
    backend: TensorRTBackend, tensorrt_double: Any, cuda_double: Any, call: str
) -> None:
    if call.startswith("cu"):
        cuda_double.fail[call] = 1
        with pytest.raises(CudaError, match=call):
            backend.infer(_frames(1))
    else:
        tensorrt_double.fail[call] = False
        with pytest.raises(BackendError, match="told to fail"):
            backend.infer(_frames(3))
    for count in (3, 3, 3, 1):
        frames = _frames(count, seed=count)
        _check(backend.infer(frames), frames)
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


def test_another_thread_is_refused(backend: TensorRTBackend, cuda_double: Any, tensorrt_double: Any) -> None:
    caught: list[BaseException] = []

    def misuse() -> None:
        for call in (lambda: backend.infer(_frames(1)), backend.close):
            try:
                call()
            except ThreadOwnerError as error:
                caught.append(error)

    thread = threading.Thread(target=misuse, name="worker")
    thread.start()
    thread.join()
    assert len(caught) == 2
    assert "Make a Detector inside each thread" in str(caught[0])
    frames = _frames(2)
    _check(backend.infer(frames), frames)
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


def test_each_thread_may_have_a_detector_of_its_own(tiny_engine: Path, tensorrt_double: Any) -> None:
    scores: dict[int, float] = {}

    def work(value: int) -> None:
        with Detector(tiny_engine) as detector:
            scores[value] = detector(np.full((SIDE, SIDE, 3), value, np.uint8)).score

    for value in (51, 102):
        thread = threading.Thread(target=work, args=(value,))
        thread.start()
        thread.join()
    assert scores == pytest.approx({51: 0.2, 102: 0.4}, abs=1e-6)


def test_opening_and_closing_twice_is_harmless(
    backend: TensorRTBackend, cuda_double: Any, tensorrt_double: Any
) -> None:
    held = cuda_double.held()
    backend.open()
    assert cuda_double.held() == held
    backend.close()
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)
    for use in (lambda: backend.infer(_frames(1)), lambda: backend.spec):
        with pytest.raises(ClosedError, match="The TensorRT backend is not open"):
            use()
    assert backend.description == "tensorrt, not open"


def test_a_driver_that_fails_at_closing_is_told_and_the_rest_freed(
    backend: TensorRTBackend, cuda_double: Any, tensorrt_double: Any
) -> None:
    cuda_double.fail["cuMemFree"] = 1
    with pytest.raises(CudaError, match="cuMemFree"):
        backend.close()
    backend.close()
    assert _is_clean(cuda_double, tensorrt_double)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, SIDE, SIDE + 1, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((0, SIDE, SIDE, 3), np.uint8),
    ],
)
def test_frames_that_do_not_fit_are_refused(backend: TensorRTBackend, frames: Any) -> None:
    with pytest.raises(BackendError, match=r"came; wanted uint8 \(N, 16, 16, 3\) with N from 1"):
        backend.infer(frames)
    backend.close()


def test_a_plan_with_other_outputs_is_refused(
    tiny_model: Path, as_engine: Callable[..., Path], tensorrt_double: Any, cuda_double: Any
) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    engine = as_engine(tiny_model)
    graph = onnx.load(engine)
    del graph.graph.output[2]
    onnx.save(graph, engine)
    with pytest.raises(ModelMismatchError, match="has the outputs score, anomaly_map; wanted"):
        TensorRTBackend(engine).open()
    assert _is_clean(cuda_double, tensorrt_double)


def test_a_plan_that_takes_other_frames_is_refused(
    tiny_model: Path, as_engine: Callable[..., Path], tensorrt_double: Any
) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    engine = as_engine(tiny_model)
    graph = onnx.load(engine)
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(graph, engine)
    with pytest.raises(BackendError, match=r"inputs \['frames'\] .*wanted one uint8 \(N, H, W, 3\)"):
        TensorRTBackend(engine).open()


def test_a_plan_with_one_fixed_batch(
    tiny_model: Path, as_engine: Callable[..., Path], tensorrt_double: Any
) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    engine = as_engine(tiny_model)
    graph = onnx.load(engine)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(graph, engine)
    backend = TensorRTBackend(engine)
    backend.open()
    frames = _frames(5)
    _check(backend.infer(frames), frames)
    backend.close()


def test_another_version_is_refused_before_the_plan_is_read(
    tiny_engine: Path, make_tensorrt_double: Callable[..., Any], cuda_double: Any
) -> None:
    double = make_tensorrt_double("tensorrt", "10.16.1.11")
    with pytest.raises(BackendError, match=r"built with tensorrt 10\.3\.0; this machine has 10\.16\.1\.11"):
        TensorRTBackend(tiny_engine).open()
    assert double.log == []
    assert cuda_double.retained == 0


def test_another_gpu_is_refused_before_the_plan_is_read(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any
) -> None:
    cuda_double.capability = (12, 0)
    with pytest.raises(BackendError, match=r"compute capability 8\.7; this machine's Double GPU has 12\.0"):
        TensorRTBackend(tiny_engine).open()
    assert tensorrt_double.log == []
    assert _is_clean(cuda_double, tensorrt_double)
