"""Whole runs: what a record holds, in which order models are measured, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.benchmarks import bench_run
from cada_edge.benchmarks.bench_config import BenchConfig, parse_percentiles, parse_share
from cada_edge.benchmarks.bench_frames import draw_frames, read_frames
from cada_edge.benchmarks.bench_monitor import Monitor
from cada_edge.benchmarks.bench_noise import find_noise
from cada_edge.benchmarks.bench_run import SCHEMA, plan_blocks, run_bench
from cada_edge.benchmarks.machine_energy import EnergyCurve
from cada_edge.errors import ConfigError, SourceError
from cada_edge.manifest import Manifest

pytestmark = pytest.mark.alone

SMALL = (40, 60)


def quick(**values: Any) -> BenchConfig:
    return BenchConfig(**{"duration_s": 0.3, "warmup_s": 0.05, "frame_hw": SMALL, "threads": 1, **values})


def test_frames_are_all_different_and_of_the_cameras_size() -> None:
    frames = draw_frames((72, 128))
    assert len(frames.images) == 32
    assert frames.sizes == ["128x72"]
    assert len({image.tobytes() for image in frames.images}) == 32
    assert all(image.std() > 5 for image in frames.images)
    assert all(image.flags.c_contiguous and image.dtype == np.uint8 for image in frames.images)
    again = draw_frames((72, 128))
    assert all(np.array_equal(a, b) for a, b in zip(frames.images, again.images, strict=True))
    first = frames.cycle(31)
    assert next(first) is frames.images[31]
    assert next(first) is frames.images[0]


def test_frames_of_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        image = np.full((20, 30, 3), 50 * (number // 2), np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    frames = read_frames(tmp_path)
    # Two of the four are the same.
    assert frames.to_dict() == {"origin": str(tmp_path), "distinct": 2, "sizes": ["30x20"]}
    for number in (2, 3):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(SourceError, match="has 1 different frames; wanted at least 2"):
        read_frames(tmp_path)


def test_a_live_source_is_refused() -> None:
    with pytest.raises(SourceError, match=r"live source.*wanted a file or folder"):
        read_frames(Path("/dev/video9999"))


def test_the_order_runs_forth_and_back() -> None:
    order, block_s = plan_blocks(3, quick(duration_s=5.0))
    assert order[:9] == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert (len(order), block_s) == (30, 0.5)
    # A call of 2 s in 8 s: three blocks, since fewer are no comparison.
    order, block_s = plan_blocks(2, quick(duration_s=8.0), call_s=2.0)
    assert len(order) == 6
    assert block_s == pytest.approx(8 / 3)


def test_a_record_holds_everything(tiny_model: Path, sleeping: Callable[..., Any]) -> None:
    sleeping(sleep_s=0.002)
    told: list[str] = []
    # Without a warm-up the plan does not depend on how fast the machine is.
    config = quick(warmup_s=0.0)
    record = run_bench([tiny_model, tiny_model], config, progress=lambda what, done, total: told.append(what))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["schema"] == SCHEMA
    assert [subject["label"] for subject in record["subjects"]] == ["tiny.onnx", "tiny.onnx #2"]
    assert told[0] == "warm-up tiny.onnx"
    assert "6 blocks of 0.05 s" in record["interleaved"]
    assert record["frames"]["sizes"] == ["60x40"]
    assert record["machine"]["cpu"]
    assert record["machine"]["load"]["own_cores"] is not None
    for subject in record["subjects"]:
        samples, latency = subject["samples"], subject["latency_ms"]
        assert latency["n"] == len(samples["total_ms"]) == len(samples["at_ms"]) == len(samples["block"])
        assert set(samples["block"]) == set(range(6))
        assert latency["max"] == pytest.approx(max(samples["total_ms"]), abs=1e-4)
        assert latency["min"] >= 2
        assert subject["warm_up"] is None
        model = subject["model"]
        assert model["sha256"] == Manifest.read(tiny_model).model_sha256
        assert (model["engine"], model["threads"], model["precision"]) == ("sleeping 1.0 CPU", 1, "fp32")
        stages = subject["stages_ms"]
        assert stages["host_to_device"] is None
        assert stages["sum"] + stages["unaccounted"] == pytest.approx(stages["total"])
        assert stages["total"] == pytest.approx(latency["mean"])
        assert 0 <= stages["unaccounted"] < 0.5 * stages["total"]
    ratio = record["ratios"][0]
    assert (ratio["label"], ratio["to"], ratio["pairs"]) == ("tiny.onnx #2", "tiny.onnx", 6)
    # The same double twice: other processes move it, but not to half or double.
    assert 0.5 < ratio["median"] < 2
    assert ratio["minimum"] <= ratio["low"] <= ratio["median"] <= ratio["high"] <= ratio["maximum"]


def test_an_interruption_leaves_what_was_measured(
    tiny_model: Path, sleeping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = sleeping(sleep_s=0.002)
    plain = backend.infer

    def interrupted(frames: Any) -> Any:
        if backend.calls == 60:
            backend.calls += 1
            raise KeyboardInterrupt
        return plain(frames)

    backend.infer = interrupted
    record = run_bench([tiny_model], quick(duration_s=60.0))
    assert record["interrupted"]
    assert 1 <= record["subjects"][0]["latency_ms"]["n"] < 60
    assert "the run was interrupted: this is what had been measured" in record["warnings"]
    # Before the first block there is nothing to show.
    backend.calls = 60
    with pytest.raises(KeyboardInterrupt):
        run_bench([tiny_model], quick(duration_s=60.0))


def test_models_with_other_frames_are_measured_apart(
    tiny_model: Path, sleeping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeping(sleep_s=0.0)
    manifest = Manifest.read(tiny_model)
    other = tiny_model.with_name("other.onnx")
    other.write_bytes(tiny_model.read_bytes())
    for path, frame_hw in ((tiny_model, (16, 16)), (other, (32, 32))):
        dataclasses.replace(manifest, model_file=path.name, frame_hw=frame_hw).write(path)
    backend = sleeping(sleep_s=0.0)
    monkeypatch.setattr("cada_edge.runtime.detector.Detector._check_and_warm_up", lambda self: None)
    with pytest.raises(ConfigError, match="frames of 16x16 and 32x32 came; wanted one size"):
        run_bench([tiny_model, other], quick())
    assert backend.calls == 0
    record = run_bench([tiny_model], quick())
    assert record["frames"]["sizes"] == ["16x16"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "burst"}, "mode 'burst' came; wanted one of latency, throughput, camera"),
        ({"fps": 0.0}, "fps 0.0 came; wanted a number above 0"),
        ({"duration_s": float("nan")}, "duration_s nan came"),
        ({"warmup_s": -1.0}, "warmup_s -1.0 came; wanted 0 or more"),
        ({"batch": 0}, "batch 0 came; wanted a whole number from 1"),
        ({"streams": 2}, "2 streams came with the mode latency"),
        ({"drop": "newest"}, "drop 'newest' came"),
        ({"percentiles": (50.0, 100.0)}, "wanted numbers between 0 and 100"),
        ({"frame_hw": (0, 5)}, "wanted at least 1 pixel a side"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**values)


def test_texts_that_are_no_numbers() -> None:
    with pytest.raises(ConfigError, match="percentiles '50;99' came"):
        parse_percentiles("50;99")
    for text in ("five", "-1%", "nan", ""):
        with pytest.raises(ConfigError, match=r"tolerance .* came; wanted a share"):
            parse_share(text)
    with pytest.raises(ConfigError, match="No model came"):
        run_bench([], quick())


def quiet_record() -> dict[str, Any]:
    """A record without a reason to doubt it."""
    load = {"other_cores": 0.01, "stolen_share": 0.0, "throttled": 0, "power_throttled": 0, "pages_read": 0}
    subject: dict[str, Any] = {
        "label": "model",
        "model": {"format": "onnx"},
        "latency_ms": {"n": 500, "mean": 10.0, "deviation": 0.1},
        "camera": None,
        "energy": [],
        "p99_samples_needed": 368,
        "samples": {"total_ms": [10.0] * 500},
    }
    return {
        "subjects": [subject],
        "machine": {
            "load": load,
            "cores": 2,
            "cores_installed": 4,
            "governor": "performance",
            "gpu": None,
            "gpu_reason": "no NVML",
            "jetson": None,
        },
        "interrupted": False,
        "frames": {"distinct": 32},
        "config": {"warmup_s": 2.0},
    }


@pytest.mark.parametrize(
    ("path", "value", "warning"),
    [
        (("subjects", 0, "latency_ms", "deviation"), 2.0, "model: the latencies vary by 20 %"),
        (("subjects", 0, "samples", "total_ms"), [10.0] * 250 + [11.0] * 250, "of the last 11 ms"),
        (("subjects", 0, "latency_ms", "n"), 367, "367 samples are too few"),
        (("subjects", 0, "camera"), {"due": 300}, "300 samples are too few"),
        (("subjects", 0, "model", "format"), "engine", "GPU are not known: no NVML"),
        (("machine", "load", "other_cores"), 0.15, "other processes kept 0.1 of 4 processors busy; this one"),
        (("machine", "load", "stolen_share"), 0.2, "virtual one took 20 %"),
        (("machine", "load", "throttled"), 3, "slowed down for heat 3 times"),
        (("machine", "load", "power_throttled"), 3, "slowed down 3 times for its current or voltage"),
        (("machine", "load", "pages_read"), 7, "7 pages of memory were read from a disk"),
        (("machine", "governor"), "powersave", "the CPU governor is powersave"),
        (("machine", "gpu"), {"throttled": ["power cap"]}, "the GPU's clocks were held down: power cap"),
        (("frames", "distinct"), 3, "3 different frames only"),
        (("config", "warmup_s"), 0, "there was no warm-up"),
    ],
)
def test_each_reason_to_doubt_is_named(path: tuple[Any, ...], value: Any, warning: str) -> None:
    record = quiet_record()
    assert find_noise(record) == []
    part: Any = record
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    found = find_noise(record)
    assert len(found) == 1
    assert warning in found[0]


def test_power_that_is_read_blends_models_that_take_turns() -> None:
    record = quiet_record()
    record["subjects"] = [quiet_record()["subjects"][0] for _ in range(2)]
    for subject in record["subjects"]:
        subject["energy"] = [{"is_counted": True}]
    assert find_noise(record) == []
    record["subjects"][1]["energy"] = [{"is_counted": False}]
    assert "power was read, not counted" in find_noise(record)[0]
    del record["subjects"][0]
    assert find_noise(record) == []


def test_the_meters_are_read_where_models_change(
    tiny_model: Path, sleeping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class StepMonitor(Monitor):
        """A double of an energy counter: the second model draws three times as much, and it is read late."""

        def __init__(self) -> None:
            super().__init__(every_s=60.0)
            self.curve = EnergyCurve("board")
            self.joules, self.last_s, self.marks = 0.0, 0.0, 0

        def mark(self) -> None:
            # Neither its thread's nor that before all blocks.
            if threading.current_thread() is not threading.main_thread() or not self._thread.is_alive():
                return
            now_s = time.perf_counter()
            if self.marks % 2 == 1:  # the end of a block
                watts = (10.0, 30.0)[plan_blocks(2, quick())[0][self.marks // 2]]
                self.joules += watts * (now_s - self.last_s)
            self.marks += 1
            self.last_s = now_s
            self.curve.add_counter(now_s, self.joules)

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            self.curves = (self.curve,)

    monkeypatch.setattr(bench_run, "Monitor", StepMonitor)
    sleeping(sleep_s=0.005)
    record = run_bench([tiny_model, tiny_model], quick())
    found = [subject["energy"][0]["mean_w"] for subject in record["subjects"]]
    assert found == pytest.approx([10.0, 30.0], rel=0.05)


def test_half_a_processor_of_many_is_other_load_too() -> None:
    record = quiet_record()
    record["machine"].update(cores=64, cores_installed=64)
    record["machine"]["load"]["other_cores"] = 0.4
    assert find_noise(record) == []
    record["machine"]["load"]["other_cores"] = 0.6
    assert "0.6 of 64 processors" in find_noise(record)[0]


def test_energy_is_of_each_models_own_blocks(
    tiny_model: Path, sleeping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class SteadyMonitor(Monitor):
        """A double of a power reading: ten watts, all the time."""

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            # A GPU's own reading says nothing of a model on the CPU.
            board, gpu = EnergyCurve("board"), EnergyCurve("GPU", of_gpu=True)
            for at_s in (0.0, 1e9):
                board.add_counter(at_s, 10 * at_s)
                gpu.add_counter(at_s, 500 * at_s)
            self.curves = (board, gpu)

    monkeypatch.setattr(bench_run, "Monitor", SteadyMonitor)
    sleeping(sleep_s=0.005)
    record = run_bench([tiny_model, tiny_model], quick())
    for subject in record["subjects"]:
        # Calls before the measured ones are kept apart.
        assert subject["warm_up"]["n"] >= 1
        assert subject["warm_up"]["first_ms"] >= 5
        (energy,) = subject["energy"]
        assert energy["mean_w"] == pytest.approx(10, rel=1e-3)
        assert energy["joules"] == pytest.approx(10 * subject["seconds"], rel=1e-3)
        assert energy["images_per_joule"] == pytest.approx(subject["images_per_second"] / 10, rel=0.01)
