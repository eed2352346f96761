"""TensorRT for RTX itself, which builds without a GPU and refuses to load without one: no double here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cada_edge.errors import BackendError, CudaError
from cada_edge.runtime.cuda_driver import require_gpu
from cada_edge.runtime.tensorrt_engine import TensorRTEngine, load_tensorrt, message_log

pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")


def _built(model: Path) -> Path:
    """Build the tiny model for compute capability 8.6."""
    trt: Any = load_tensorrt("rtx")
    logger, _ = message_log("tensorrt_rtx")
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(model.read_bytes())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("frames", (1, 16, 16, 3), (2, 16, 16, 3), (4, 16, 16, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    path = model.with_suffix(".engine")
    path.write_bytes(bytes(plan))
    return path


@pytest.fixture
def without_gpu() -> None:
    """Skip where there is a GPU: what is tested is its absence."""
    try:
        require_gpu()
    except CudaError:
        return
    pytest.skip("this machine has a GPU")


def test_a_damaged_plan_is_refused_with_the_librarys_reason(tmp_path: Path) -> None:
    plan = tmp_path / "damaged.engine"
    plan.write_bytes(b"no plan at all" * 100)
    wanted = r"tensorrt_rtx 1\.[\d.]+ cannot load .*damaged.engine: its check says MALFORMED_ENGINE"
    with pytest.raises(BackendError, match=wanted):
        TensorRTEngine("rtx", plan, rebuild="cada-edge export")


def test_a_sound_plan_without_a_driver_is_refused_with_the_librarys_reason(
    tiny_model: Path, without_gpu: None
) -> None:
    with pytest.raises(BackendError, match=r"its check says invalid; .*cudaError 35.*with: REBUILD"):
        TensorRTEngine("rtx", _built(tiny_model), rebuild="REBUILD")


def test_without_its_check_deserialising_gives_none_and_the_error_says_why(
    tiny_model: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRTEngine, "_check_validity", lambda engine, plan: None)
    with pytest.raises(BackendError, match=r"cannot deserialise .*cudaError 35"):
        TensorRTEngine("rtx", _built(tiny_model), rebuild="REBUILD")
