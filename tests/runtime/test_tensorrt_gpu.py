"""The real thing: an engine built and run on this machine's GPU. Skips without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge import Detector
from cada_edge.errors import ThreadOwnerError
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend_tensorrt import TensorRTBackend
from cada_edge.runtime.cuda_driver import gpus
from cada_edge.runtime.parity import verify
from cada_edge.runtime.tensorrt_engine import MODULES, load_tensorrt, message_log

pytestmark = pytest.mark.gpu

SIDE = 16


def _plan(target: str, model: Path) -> bytes:
    """Build the tiny model for this machine's GPU; skip where the library has no such GPU."""
    trt: Any = load_tensorrt(target)
    logger, messages = message_log(MODULES[target])
    builder = trt.Builder(logger)
    flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(1 << flag)
    assert trt.OnnxParser(network, logger).parse(model.read_bytes()), list(messages.errors)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape("frames", *((batch, SIDE, SIDE, 3) for batch in (1, 2, 4)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        pytest.skip(f"{MODULES[target]} does not build for this GPU: {list(messages.errors)}")
    return bytes(plan)


@pytest.fixture(params=["tensorrt", "rtx"])
def engine(request: pytest.FixtureRequest, tiny_model: Path, as_engine: Callable[..., Path]) -> Path:
    """The tiny model as an engine for this machine."""
    target = str(request.param)
    pytest.importorskip(MODULES[target], reason=f"{MODULES[target]} is not installed")
    major, minor = gpus()[0][1]
    path = as_engine(
        tiny_model,
        target=target,
        tensorrt_version=load_tensorrt(target).__version__,
        compute_capabilities=(f"{major}.{minor}",),
        executed=False,
    )
    path.write_bytes(_plan(target, tiny_model))
    dataclasses.replace(Manifest.read(path), model_sha256=sha256_file(path)).write(path)
    return path


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def binding(request: pytest.FixtureRequest) -> str:
    """Each package that drives the GPU."""
    package = {"cuda-bindings": "cuda.bindings.driver", "pycuda": "pycuda.driver"}[request.param]
    pytest.importorskip(package, reason=f"{request.param} is not installed", exc_type=ImportError)
    return str(request.param)


def test_known_numbers_with_changing_batches(engine: Path, binding: str) -> None:
    backend = TensorRTBackend(engine, binding=binding)
    for _ in range(2):
        backend.open()
        for seed, count in enumerate((1, 1, 4, 4, 4, 2, 9, 1)):
            frames = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
            outputs = backend.infer(frames)
            maps = frames.astype(np.float64).mean(3) / 255
            np.testing.assert_allclose(outputs.anomaly_map, maps, atol=1e-5)
            np.testing.assert_allclose(outputs.score, maps.mean((1, 2)), atol=1e-5)
            assert all(value > 0 for value in backend.stages_ms.values())
        assert ("no CUDA graph" in backend.description) == (binding == "pycuda")
        backend.close()


def test_the_reference_file_holds_on_the_gpu(engine: Path) -> None:
    assert verify(engine).max_score_difference < 1e-4
    build = Manifest.read(engine).engine
    assert build is not None
    assert build.executed


def test_another_thread_is_refused(engine: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    frame = np.full((SIDE, SIDE, 3), 51, np.uint8)
    with Detector(engine) as detector, ThreadPoolExecutor(1) as pool:
        with pytest.raises(ThreadOwnerError):
            pool.submit(detector, frame).result()
        assert detector(frame).score == pytest.approx(0.2, abs=1e-5)
