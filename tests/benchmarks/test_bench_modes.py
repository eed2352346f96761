"""The three modes, on doubles of known times and on a real engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.benchmarks.bench_blocks import Block, fill_latency, stages_of
from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_figures import figures_of
from cada_edge.benchmarks.bench_frames import FrameSet
from cada_edge.benchmarks.bench_pipeline import fill_camera, fill_throughput
from cada_edge.benchmarks.bench_subject import open_subjects
from cada_edge.errors import BackendError

pytestmark = pytest.mark.alone

FILL = {"latency": fill_latency, "throughput": fill_throughput, "camera": fill_camera}
FRAMES = FrameSet(tuple(np.full((16, 16, 3), value, np.uint8) for value in range(8)), "test")
PAUSE_S = 0.2


def measure(model: Path, seconds: float, **values: Any) -> Block:
    config = BenchConfig(**values)
    block = Block(0)
    with open_subjects([model], threads=1) as subjects:
        FILL[config.mode](block, subjects[0], FRAMES, config, seconds)
    return block


def test_a_pause_shows_in_the_camera_modes_p99_and_not_in_a_closed_loops(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    # The pause makes every frame late that falls due in it: at 50 a second ten of 150, far more than 1 %.
    sleeping(sleep_s=0.002, pause_at=60, pause_s=PAUSE_S)
    block = measure(tiny_model, 3.0, mode="camera", fps=50, drop="block")
    assert block.due == block.frames == 150
    assert np.percentile(block.total_ms, 99) > 0.5 * PAUSE_S * 1e3
    assert block.late >= 7
    # In a closed loop it is one call of about a thousand.
    sleeping(sleep_s=0.002, pause_at=60, pause_s=PAUSE_S)
    block = measure(tiny_model, 3.0, mode="latency")
    assert max(block.total_ms) >= PAUSE_S * 1e3
    assert np.percentile(block.total_ms, 99) < 0.5 * PAUSE_S * 1e3
    assert sum(np.array(block.total_ms) > PAUSE_S * 1e3) == 1


def test_a_live_camera_drops_frames_in_a_pause_and_counts_them(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    sleeping(sleep_s=0.002, pause_at=30, pause_s=0.3)
    block = measure(tiny_model, 1.5, mode="camera", fps=50, drop="latest")
    assert block.due == 75
    assert block.frames + block.dropped == 75
    # 15 fall due in the pause; some wait in the pipeline and come late, the others are gone.
    assert block.dropped >= 5
    assert block.late >= 2
    # More than one of a hundred has no verdict: the p99 is one of these.
    figures = figures_of([block], None, BenchConfig(mode="camera", fps=50))
    assert figures["latency_ms"]["p99"] is None


def test_a_pause_shows_in_the_p99_of_a_camera_that_drops_frames() -> None:
    # 200 ms at 30 a second, in ten seconds: six frames fall due, and the newest ones alone are kept. Of those
    # with a verdict two are late, which are less than one in a hundred.
    block = Block(0, due=300, dropped=2, late=2, started_s=0.0, ended_s=10.0, rate=30.0)
    for number in range(298):
        block.add(number / 30, 200.0 if number in (7, 8) else 5.0, {})
    assert np.percentile(block.total_ms, 99) == 5.0
    figures = figures_of([block], None, BenchConfig(mode="camera"))
    assert figures["latency_ms"]["p99"] == 200.0
    assert figures["latency_ms"]["p50"] == 5.0
    assert figures["latency_ms"]["n"] == 298
    block.dropped, block.due = 4, 300
    del block.total_ms[-2:]
    assert figures_of([block], None, BenchConfig(mode="camera"))["latency_ms"]["p99"] is None


def test_a_model_that_cannot_keep_up_drops_what_it_cannot_do(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    sleeping(sleep_s=0.05)
    block = measure(tiny_model, 1.0, mode="camera", fps=60)
    assert block.dropped > 20
    assert block.rate < 30
    assert block.late == block.frames


def test_no_frame_of_settling_is_before_the_first_one_that_is_due(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    sleeping(sleep_s=0.1)
    block = measure(tiny_model, 1.0, mode="camera", fps=4, drop="block")
    assert block.due == block.frames == 4
    # A queue of four that was still full would take 400 ms first.
    assert block.total_ms[0] < 300


def test_several_cameras_are_spread_over_a_frames_time(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    sleeping(sleep_s=0.001)
    block = measure(tiny_model, 0.5, mode="camera", fps=10, streams=2)
    assert block.due == block.frames == 10
    assert len(set(block.at_s)) == 10
    assert np.diff(sorted(block.at_s)) == pytest.approx([0.05] * 9, abs=1e-6)


def test_throughput_fills_batches_and_overlaps_the_stages(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    backend = sleeping(sleep_s=0.02)
    block = measure(tiny_model, 1.0, mode="throughput", batch=4)
    # 4 frames in 20 ms are 200 a second; a machine that does other work gets fewer.
    assert 40 < block.rate <= 201
    assert block.frames == len(block.total_ms) > 2 * backend.calls
    assert "capture" not in block.stages_ms


def test_one_batch_alone_has_a_rate_too(tiny_model: Path, sleeping: Callable[..., Any]) -> None:
    sleeping(sleep_s=0.3)
    block = measure(tiny_model, 0.001, mode="throughput", batch=4)
    assert 1 <= block.frames <= 8
    assert 0 < block.rate <= 4 / 0.3


def test_a_closed_loop_counts_every_call_and_its_stages(
    tiny_model: Path, sleeping: Callable[..., Any]
) -> None:
    backend = sleeping(sleep_s=0.01)
    block = measure(tiny_model, 0.3, batch=2)
    # One at the opening, one before the first sample.
    assert len(block.total_ms) == backend.calls - 2
    assert block.frames == 2 * len(block.total_ms)
    assert min(block.total_ms) >= 10
    assert min(block.stages_ms["compute"]) >= 10
    assert set(block.stages_ms) == {"capture", "preprocess", "compute", "post", "sink"}
    parts = np.sum(list(block.stages_ms.values()), 0)
    assert (parts <= np.array(block.total_ms) + 1e-6).all()


def test_a_gpus_transfers_are_stages_of_their_own() -> None:
    timings = {"preprocess": 1.0, "inference": 9.0, "post": 2.0, "total": 12.0}
    assert stages_of(timings) == {"preprocess": 1.0, "compute": 9.0, "post": 2.0}
    transfers = {"host_to_device": 1.5, "compute": 5.0, "device_to_host": 0.5}
    assert stages_of({**timings, **transfers}) == {"preprocess": 1.0, "post": 2.0, **transfers}


@pytest.mark.parametrize("mode", ["throughput", "camera"])
def test_what_the_engine_raises_ends_the_measuring(
    tiny_model: Path, sleeping: Callable[..., Any], mode: str
) -> None:
    backend = sleeping(sleep_s=0.001)

    def fail(frames: Any) -> Any:
        raise BackendError("the engine is gone")

    with open_subjects([tiny_model]) as subjects:
        backend.infer = fail
        with pytest.raises(BackendError, match="the engine is gone"):
            FILL[mode](Block(0), subjects[0], FRAMES, BenchConfig(mode=mode), 5.0)


@pytest.mark.parametrize("mode", list(FILL))
def test_a_real_engine_in_every_mode(tiny_model: Path, mode: str) -> None:
    pytest.importorskip("onnxruntime")
    block = measure(tiny_model, 0.3, mode=mode, fps=20)
    assert len(block.total_ms) >= (1 if mode != "camera" else 6)
    assert all(len(values) == len(block.total_ms) for values in block.stages_ms.values())
    assert block.rate > 0
