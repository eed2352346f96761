from __future__ import annotations

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge import Detector
from cada_edge.benchmarks import stream_rate
from cada_edge.benchmarks.hand_loops import LOOPS
from cada_edge.benchmarks.stream_rate import (
    LatencyFigures,
    RateFigures,
    main,
    measure_latency,
    measure_pipeline,
    measure_rate,
    write_video,
)

pytestmark = pytest.mark.alone

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The runtime tests' tiny model: it shows that the benchmark works, no figure of it means anything."""
    path: Path = runpy.run_path(str(CONFTEST))["_write_tiny_model"](tmp_path / "tiny.onnx")
    return path


@pytest.mark.parametrize("name", LOOPS)
def test_loops_by_hand_inspect_every_frame_in_order(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "line.avi", (32, 48), 12)
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1] for _ in range(12)]
    capture.release()
    seen: list[np.ndarray] = []
    assert LOOPS[name](path, lambda image: image + 1, seen.append) == (12, (32, 48))
    assert len(seen) == 12
    assert all(np.array_equal(got, np.asarray(frame) + 1) for got, frame in zip(seen, frames, strict=True))


@pytest.mark.parametrize("name", LOOPS)
def test_what_a_stage_raises_ends_a_loop_by_hand(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "line.avi", (32, 48), 3)

    def fail(image: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such image")

    with pytest.raises(RuntimeError, match="no such image"):
        LOOPS[name](path, fail, lambda pixels: None)


def test_both_sides_inspect_the_same_video(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "line.avi", (32, 48), 9)
    with Detector(model) as detector:
        figures = measure_rate(detector, video, turns=2)
        latency = measure_latency(detector, (32, 48), frames=5, turns=2)
        infer = detector._backend.infer
        with stream_rate._without_engine(detector) as copied:
            assert detector._backend.infer is copied
            pixels = np.zeros((1, *detector.size_hw, 3), np.uint8)
            wanted, once, again = infer(pixels), copied(pixels), copied(pixels)
        assert np.array_equal(once.anomaly_map, wanted.anomaly_map)
        assert once.anomaly_map is not again.anomaly_map
        assert measure_pipeline(detector, video, turns=1).frames == 9
    assert figures.frame_hw == (32, 48)
    assert figures.frames == 9
    assert len(figures.run_fps) == len(figures.ratios) == 2
    assert set(figures.hand_fps) == set(LOOPS)
    assert min(figures.run_fps) > 0
    assert len(latency.run_ms) == len(latency.hand_ms) == len(latency.ratios) == 2
    assert min(latency.run_ms) > 0
    assert latency.fps > 0


def test_ratios_are_taken_within_a_turn_against_the_best_loop() -> None:
    rate = RateFigures((1, 1), 9, (96.0, 48.0, 97.0), {"a": (100.0, 50.0, 100.0), "b": (10.0, 400.0, 10.0)})
    assert rate.best == "a"
    assert rate.ratios == (0.96, 0.96, 0.97)
    assert rate.is_reached
    assert rate.added_ms[:2] == pytest.approx([1e3 / 96 - 10, 1e3 / 48 - 20])
    assert not RateFigures((1, 1), 9, (94.0,), {"a": (100.0,)}).is_reached
    assert LatencyFigures((1, 1), 5.0, (11.0,), (10.0,)).is_reached
    assert not LatencyFigures((1, 1), 5.0, (11.2, 11.2, 1.0), (10.0, 10.0, 10.0)).is_reached


def test_the_command_prints_ratios_with_their_spread_and_how_threads_are_split(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream_rate.FRAME_SIZES == ((256, 256), (1080, 1920))
    monkeypatch.setattr(stream_rate, "FRAME_SIZES", ((16, 16), (40, 60)))  # quick
    arguments = [str(model), "--frames", "4", "--turns", "1", "--backend", "onnxruntime"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "60x40: run" in result.stdout
    assert "60x40 without the engine: run" in result.stdout
    assert result.stdout.count("over 1 turns") == 6
    assert "by hand, three threads: Decode, preprocessing and engine in a thread each" in result.stdout
    unjudged = json.loads(CliRunner().invoke(main, [*arguments, "--part", "pipeline", "--json"]).stdout)
    assert unjudged["reached"] is None
    record = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    alone = CliRunner().invoke(main, [*arguments, "--part", "pipeline"]).stdout
    assert alone.count("over 1 turns") == alone.count("without the engine") == 2
    for part in ("rates", "pipelines"):
        assert [each["frame_hw"] for each in record[part]] == [[16, 16], [40, 60]]
    assert [each["frame_hw"] for each in record["latencies"]] == [[16, 16], [40, 60]]
    assert record["reached"] in (True, False)
