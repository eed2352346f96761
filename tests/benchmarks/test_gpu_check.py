"""The GPU check on a machine without a GPU: what it says then, its record, and what of it needs no GPU."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import gpu_check, gpu_device_checks, gpu_engine_checks, gpu_torch_checks
from cada_edge.benchmarks.gpu_outcomes import (
    NotPossible,
    Outcome,
    describe_gpu_machine,
    exit_code,
    markdown,
    outcome_of,
    perform,
)
from cada_edge.errors import CheckFailedError, CudaError
from cada_edge.runtime.cuda_driver import require_gpu


def _has_gpu() -> bool:
    try:
        require_gpu()
    except CudaError:
        return False
    return True


without_gpu = pytest.mark.skipif(_has_gpu(), reason="says what happens without a GPU")


class HostCalls:
    """A double of a binding: memory of the host stands for the device's; work is done when it is enqueued."""

    binding = "double 1.0"

    def __init__(self, *, has_graphs: bool = True, spoils: bool = False) -> None:
        self.has_graphs = has_graphs
        self._spoils = spoils
        self._recording: list[Any] | None = None
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self.held = 0

    def retain(self, ordinal: int) -> tuple[str, tuple[int, int]]:
        return "double", (9, 0)

    def push(self) -> None: ...
    def pop(self) -> None: ...
    def release(self) -> None: ...

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        self.held += 1
        array = np.zeros(nbytes, np.uint8)
        self._memory[array.ctypes.data] = array
        return array.ctypes.data, array

    def free(self, handle: Any) -> None:
        self.held -= 1

    def pinned(self, nbytes: int) -> tuple[np.ndarray[Any, Any], Any]:
        self.held += 1
        array = np.zeros(nbytes, np.uint8)
        return array, array

    free_pinned = destroy_stream = destroy_event = destroy_graph = free

    def _do(self, work: Any) -> None:
        work() if self._recording is None else self._recording.append(work)

    def copy_to_device(self, address: int, array: np.ndarray[Any, Any], stream: Any) -> None:
        self._do(lambda: np.copyto(self._memory[address][: array.size], array))

    def copy_to_host(self, array: np.ndarray[Any, Any], address: int, stream: Any) -> None:
        def copy() -> None:
            np.copyto(array, self._memory[address][: array.size])
            array[-1] += self._spoils

        self._do(copy)

    def stream(self) -> tuple[int, Any]:
        self.held += 1
        return 1, object()

    def synchronize(self, handle: Any) -> None: ...

    def event(self) -> Any:
        self.held += 1
        return []

    def record(self, event: Any, stream: Any) -> None:
        event[:] = [time.perf_counter()]

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end[0] - start[0]) * 1e3

    def begin_capture(self, stream: Any) -> None:
        self._recording = []

    def end_capture(self, stream: Any) -> Any:
        self.held += 1
        recorded, self._recording = self._recording, None
        return recorded

    def launch(self, graph: Any, stream: Any) -> None:
        for work in graph:
            work()


@pytest.mark.parametrize("has_graphs", [True, False])
def test_the_device_layer_is_exercised_and_left_clean(has_graphs: bool) -> None:
    calls = HostCalls(has_graphs=has_graphs)
    figures = gpu_device_checks.exercise(calls, block_bytes=1 << 16)
    assert (figures["gpu"], figures["binding"]) == ("double", "double 1.0")
    assert (figures["graph_round_trip_us"] is not None) == has_graphs
    assert min(figures["to_device_gb_s"], figures["to_host_gb_s"], figures["round_trip_us"]) > 0
    assert calls.held == 0


def test_a_byte_that_comes_back_changed_is_a_failure() -> None:
    calls = HostCalls(spoils=True)
    with pytest.raises(
        CheckFailedError, match=r"1 of 65536 bytes of a copy through the GPU came back changed"
    ):
        gpu_device_checks.exercise(calls, block_bytes=1 << 16)
    assert calls.held == 0


def test_what_a_check_ends_with() -> None:
    def fails() -> Mapping[str, Any]:
        raise ZeroDivisionError("by zero")

    def lacks() -> Mapping[str, Any]:
        raise NotPossible("no card")

    ended = [perform("a", lambda: {"x_ms": 1.5}), perform("b", fails), perform("c", lacks)]
    assert ended == [
        Outcome("a", "ok", figures={"x_ms": 1.5}),
        Outcome("b", "failed", "ZeroDivisionError: by zero"),
        Outcome("c", "not possible", "no card"),
    ]
    assert [exit_code(ended), exit_code(ended[::2]), exit_code(ended[2:])] == [1, 0, 3]
    assert [outcome_of(dataclasses.asdict(outcome)) for outcome in ended] == ended


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with signal 11."),
        ("raise SystemExit('a\\nb\\nc\\nd')", "its process ended with exit code 1. b / c / d"),
        ("import time; time.sleep(60)", "it had not ended after 3 s and was stopped."),
    ],
)
def test_a_crash_or_a_hang_is_only_its_own_failure(code: str, message: str, tmp_path: Path) -> None:
    outcome = gpu_check.run_apart("x", [sys.executable, "-c", code], tmp_path / "x.json", limit_s=3)
    assert (outcome.name, outcome.state, outcome.reason) == ("x", "failed", message)
    assert outcome.seconds > 0


def test_the_record_of_a_process_is_read(tmp_path: Path) -> None:
    written = Outcome("x", "ok", figures={"n": 3})
    record = tmp_path / "x.json"
    record.write_text(json.dumps(dataclasses.asdict(written)))
    outcome = gpu_check.run_apart("x", [sys.executable, "-c", ""], record, limit_s=60)
    assert dataclasses.replace(outcome, seconds=0.0) == written


def test_time_that_is_used_up_is_said(tmp_path: Path) -> None:
    (outcome,) = gpu_check.run_checks(["fp16.uniad"], work=tmp_path, quick=True, seconds=0)
    assert (outcome.state, outcome.reason) == ("not possible", "the 0 s are used up; see --seconds.")


def test_options_reach_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run_apart(name: str, command: list[str], record: Path, *, limit_s: float) -> Outcome:
        commands.append(command)
        return Outcome(name, "ok")

    monkeypatch.setattr(gpu_check, "run_apart", run_apart)
    model = tmp_path / "model.onnx"
    for given in (model, None):
        gpu_check.run_checks(["engine.rtx"], work=tmp_path, quick=True, seconds=9, model=given)
    assert all("--quick" in command for command in commands)
    assert commands[0][-2:] == ["--model", str(model)]
    assert "--model" not in commands[1]


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {
        **describe_gpu_machine(), "gpus": ["NVIDIA X (compute capability 9.0)"], "driver": "580.1",
        "driver_cuda": "13.0", "commit": "0123456789", "commit_modified": True, "packages": {"numpy": "2.0"},
    }  # fmt: skip
    ended = [
        Outcome("a", "ok", figures={"p50_ms": 1.23456, "inner": {"n": 3}}, seconds=1.6),
        Outcome("b", "failed", "Error: x | y\nz"),
    ]
    text = markdown("2026-11-24", machine, ended)
    assert text.startswith("## GPU check, 2026-11-24\n\n* card: NVIDIA X (compute capability 9.0)\n")
    assert "* driver: 580.1, CUDA up to 13.0\n" in text
    assert "* versions: numpy 2.0\n* commit: `0123456`, with changes\n" in text
    assert '| a | ok | p50_ms 1.235, inner {"n": 3} | 2 |\n| b | failed | Error: x \\| y z | 0 |\n' in text


def test_every_base_mode_and_binding_has_its_check(tmp_path: Path) -> None:
    names = list(gpu_check.checks(tmp_path, quick=False))
    for base in ("revdist", "recontrast", "uniad"):
        assert {
            f"train.{base}",
            f"fp16.{base}",
            *(f"latency.{base}.{mode}" for mode in gpu_torch_checks.MODES),
        } <= set(names)
        assert names.index(f"train.{base}") < names.index(f"fp16.{base}")
    assert {
        "device.cuda-bindings",
        "device.pycuda",
        "engine.tensorrt",
        "engine.rtx",
        "engine.onnxruntime",
    } <= set(names)
    assert set(gpu_check.checks(tmp_path, quick=True)) < set(names)


@without_gpu
def test_without_a_gpu_each_says_so(tmp_path: Path) -> None:
    for name, check in gpu_check.checks(tmp_path, quick=True).items():
        outcome = perform(name, check)
        assert outcome.state == "not possible", outcome
        assert "CUDA" in outcome.reason, outcome
    machine = describe_gpu_machine()
    assert machine["gpus"] == []
    assert "driver" in machine["no_gpu"] or "GPU" in machine["no_gpu"]


@without_gpu
def test_the_command_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "box.json"
    result = CliRunner().invoke(gpu_check.main, ["--out", str(out), "--quick", "--only", "device."])
    assert result.exit_code == 3, result.output
    record = json.loads(out.read_text())
    assert [item["name"] for item in record["checks"]] == ["device.cuda-bindings", "device.pycuda"]
    assert {item["state"] for item in record["checks"]} == {"not possible"}
    assert record["quick"] is True
    assert record["machine"]["gpus"] == []
    table = (tmp_path / "box.md").read_text()
    assert table in result.output
    assert "* card: none: " in table
    assert table.count("| not possible |") == 2


def test_an_unknown_name(tmp_path: Path) -> None:
    result = CliRunner().invoke(gpu_check.main, ["--out", str(tmp_path / "x.json"), "--only", "nothing"])
    assert result.exit_code == 2
    assert "names no check; there are device.cuda-bindings" in result.output


def test_training_numerics_and_latency_run_on_a_cpu_too(tmp_path: Path) -> None:
    """The same functions, on a small model."""
    small: dict[str, Any] = {"encoder": "resnet18", "size": 64}
    figures = gpu_torch_checks.train("revdist", tmp_path, device="cpu", iterations=4, batch_size=4, **small)
    assert figures["images_per_s"] > 0
    assert figures["peak_gib"] is None
    assert np.isfinite(figures["loss"])
    checkpoint = gpu_torch_checks.checkpoint_in(tmp_path, "revdist")
    figures = gpu_torch_checks.numerics(checkpoint, device="cpu")
    assert figures["fp32_difference"] <= 1e-6
    assert 0 < figures["fp16_difference"] <= figures["fp16_limit"]
    figures = gpu_torch_checks.latency(checkpoint, "eager", device="cpu", seconds=0.0)
    for batch in (1, 32):
        timed = figures[f"batch_{batch}"]
        assert timed["n"] == 10
        assert timed["p50_ms"] <= timed["p90_ms"] <= timed["p99_ms"] <= timed["max_ms"]
        assert timed["images_per_s"] == pytest.approx(batch / timed["mean_ms"] * 1e3)
    with pytest.raises(NotPossible, match=r"train.uniad left no checkpoint"):
        gpu_torch_checks.checkpoint_in(tmp_path, "uniad")
    if not _has_gpu():
        with pytest.raises(NotPossible, match=r"this ONNX Runtime has .*CPUExecutionProvider"):
            gpu_engine_checks.check_onnxruntime(tmp_path / "never-read.onnx", seconds=0.0)
