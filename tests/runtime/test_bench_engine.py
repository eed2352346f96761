"""`cada-edge bench` on an engine, through the doubles of TensorRT and of the driver: there is no GPU here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_run import run_bench
from cada_edge.benchmarks.bench_text import to_text

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("mode", ["latency", "throughput", "camera"])
def test_an_engine_is_measured_with_its_transfers(
    tiny_engine: Path, tensorrt_double: Any, cuda_double: Any, mode: str
) -> None:
    config = BenchConfig(mode=mode, duration_s=0.3, warmup_s=0.05, frame_hw=(16, 16), fps=20)
    record = run_bench([tiny_engine], config)
    (subject,) = record["subjects"]
    assert subject["model"]["format"] == "engine"
    assert subject["latency_ms"]["n"] >= 1
    for stage in ("host_to_device", "compute", "device_to_host"):
        assert subject["stages_ms"][stage] is not None
    text = to_text(record)
    assert "tensorrt" in text
    assert "CUDA graph" in text
