"""The command `bench`: its options, outputs, gates and errors."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cada_edge.cli import main
from cada_edge.errors import DatasetError, OutputError

pytestmark = pytest.mark.alone

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"
QUICK = ("--duration", "0.2", "--warmup", "0.05", "--frame-size", "40x60", "--threads", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime tests' tiny model."""
    write: Callable[..., Path] = runpy.run_path(str(CONFTEST))["_write_tiny_model"]
    return write(tmp_path_factory.mktemp("model") / "tiny.onnx")


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def baseline(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of the tiny model."""
    path = tmp_path_factory.mktemp("records") / "baseline.json"
    result = bench(model, *QUICK, "--out", path, "--backend", "onnxruntime")
    assert result.exit_code == 0, result.output
    return path


def rescaled(baseline: Path, path: Path, factor: float) -> Path:
    """Write a record whose latencies are multiplied, so that whatever the machine does a gate must tell."""
    record = json.loads(baseline.read_text())
    latency = record["subjects"][0]["latency_ms"]
    for name, value in latency.items():
        if name.endswith("_interval"):
            latency[name] = [None if each is None else each * factor for each in value]
        elif name != "n":
            latency[name] = value * factor
    path.write_text(json.dumps(record))
    return path


def test_reports_of_every_kind_and_json_on_stdout(model: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"report{suffix}" for suffix in (".json", ".md", ".html")]
    given = [argument for out in outs for argument in ("--out", out)]
    result = bench(model, *QUICK, *given, "--json", "--mode", "throughput", "--streams", 2, "--batch", 2)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads(outs[0].read_text())
    assert (printed["config"]["streams"], printed["config"]["batch"]) == (2, 2)
    assert printed["subjects"][0]["samples"]["total_ms"]
    assert outs[1].read_text().startswith("# Benchmark, ")
    assert outs[2].read_text().startswith("<!doctype html>")
    assert "wrote" in result.stderr


def test_two_backends_are_compared(model: Path) -> None:
    result = bench(model, *QUICK, "--warmup", 0, "--backend", "onnxruntime", "--backend", "openvino")
    assert result.exit_code == 0, result.output
    assert "tiny.onnx (openvino) / tiny.onnx (onnxruntime)" in result.stdout
    assert "models measured in turns, 6 blocks" in result.stdout


def test_frames_of_a_folder_and_the_cameras_default_batch(model: Path, tmp_path: Path) -> None:
    for number in range(9):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), 20 * number, np.uint8))
    camera = ("--mode", "camera", "--streams", 3, "--fps", 20, "--percentiles", "50,99.9", "--json")
    result = bench(model, *QUICK, "--source", tmp_path, *camera)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["frames"]["distinct"] == 9
    assert printed["config"]["batch"] == 3
    assert printed["subjects"][0]["camera"]["due"] == 12
    assert {"p50", "p99.9", "p99"} <= set(printed["subjects"][0]["latency_ms"])


def test_the_p99_gate_ends_with_1_and_its_reason(model: Path, tmp_path: Path) -> None:
    assert bench(model, *QUICK, "--max-p99", 1e6).exit_code == 0
    out = tmp_path / "report.json"
    result = bench(model, *QUICK, "--max-p99", 1e-6, "--out", out)
    assert result.exit_code == 1
    assert "error: 1 of 1 gates failed. tiny.onnx: p99" in result.stderr
    assert "FAILED: tiny.onnx" in result.stdout
    # The report is written all the same: it says why.
    assert json.loads(out.read_text())["gates"][0]["passed"] is False


def test_the_baseline_gate(model: Path, baseline: Path, tmp_path: Path) -> None:
    slow, fast = (rescaled(baseline, tmp_path / f"{factor}.json", factor) for factor in (1e3, 1e-3))
    options = (*QUICK, "--backend", "onnxruntime", "--baseline")
    result = bench(model, *options, slow)
    assert result.exit_code == 0, result.output
    assert "passed: tiny.onnx: p50" in result.stdout
    result = bench(model, *options, fast, "--tolerance", "10%")
    assert result.exit_code == 1
    assert "tiny.onnx: p50" in result.stderr
    assert "at most x1.100" in result.stderr
    result = bench(model, *options, slow, "--batch", 2)
    assert result.exit_code == 2
    assert "baseline is not of the same measurement: batch: 1 -> 2" in result.stderr


def test_records_are_compared(baseline: Path, tmp_path: Path) -> None:
    doubled = rescaled(baseline, tmp_path / "doubled.json", 2.0)
    result = bench("--compare", baseline, doubled)
    assert result.exit_code == 0, result.output
    assert "x2.000" in result.stdout
    assert "mode, batch, frame sizes, engine, threads and machine are equal" in result.stdout
    printed = json.loads(bench("--compare", baseline, doubled, "--json").stdout)
    assert printed["models"][0]["figures"]["p99 ms"]["ratio"] == pytest.approx(2.0)
    assert printed["not_comparable"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "No model came; wanted at least one"),
        (("MODEL", "--mode", "burst"), 2, "mode 'burst' came; wanted one of"),
        (("MODEL", "--streams", "2"), 2, "2 streams came with the mode latency"),
        (
            ("MODEL", "--out", "report.pdf"),
            2,
            "--out report.pdf came; wanted a name ending in .json, .md, .html",
        ),
        (("MODEL", "--out", "/proc/none/report.json"), 2, "--out /proc/none/report.json cannot be written: "),
        (("MODEL", "--checkpoint", "c.pt"), 2, "--checkpoint c.pt came without --data"),
        (("MODEL", "--max-p99", "0"), 2, "--max-p99 0.0 came; wanted a time above 0 ms"),
        (("MODEL", "--tolerance", "much"), 2, "the tolerance 'much' came"),
        (
            ("MODEL", "--tolerance", "5"),
            2,
            "the tolerance '5' came; wanted a share from 0 and below 1, as 5%",
        ),
        (("MODEL", "--data", "nowhere"), 2, "nowhere"),
        (("MODEL", "--percentiles", "a"), 2, "percentiles 'a' came"),
        (("MODEL", "--frame-size", "720p"), 2, "the size '720p' came"),
        (("MODEL", "--baseline", "none.json"), 2, "The record none.json cannot be read"),
        (("MODEL", "--source", "nowhere"), 2, "There is no nowhere"),
        (("MODEL", "--backend", "best"), 2, "backend 'best' came"),
        (("nowhere.onnx",), 3, "There is no model file at nowhere.onnx"),
        (("MODEL", "--compare", "a.json", "b.json"), 2, "wanted two records and no model"),
    ],
)
def test_bad_input_is_told(model: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    given = [str(model) if argument == "MODEL" else argument for argument in arguments]
    result = bench(*QUICK, *given)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_a_comparison_judges_nothing_and_says_so(baseline: Path) -> None:
    result = CliRunner().invoke(
        main, ["bench", "--compare", str(baseline), str(baseline), "--max-p99", "1", "--out", "a.html"]
    )
    assert result.exit_code == 2
    assert "--compare came with --max-p99, --out; wanted two records alone" in result.stderr


def test_what_was_measured_is_kept_when_something_after_it_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatasetError("an image is gone")

    monkeypatch.setattr("cada_edge.benchmarks.bench_accuracy.measure_accuracy", fail)
    for name in ("normal/a", "test_normal/b", "anomalous/c"):
        (tmp_path / name).parent.mkdir()
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((16, 16, 3), 40, np.uint8))
    out = tmp_path / "report.json"
    result = bench(model, *QUICK, "--data", tmp_path, "--out", out, "--max-p99", "60000")
    assert result.exit_code == 2
    # It is judged too: the gates do not wait for the accuracy.
    assert "passed: tiny.onnx: p99" in result.stdout
    assert result.stderr.rstrip().endswith("error: an image is gone")
    assert "tiny.onnx" in result.stdout
    assert json.loads(out.read_text())["subjects"][0]["samples"]["total_ms"]


def test_a_report_that_cannot_be_written_loses_no_other(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: object) -> bytes:
        raise OutputError("the disk is full")

    monkeypatch.setattr("cada_edge.benchmarks.bench_page.to_html", fail)
    first, last = tmp_path / "report.html", tmp_path / "report.json"
    result = bench(model, *QUICK, "--out", first, "--out", last, "--max-p99", "60000")
    assert result.exit_code == 2
    assert "error: the disk is full" in result.stderr
    assert "passed: tiny.onnx: p99" in result.stdout
    assert json.loads(last.read_text())["gates"][0]["passed"]
    assert not first.exists()


@pytest.mark.parametrize(
    ("number", "code", "last"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_prints_what_was_measured(
    model: Path, tmp_path: Path, number: signal.Signals, code: int, last: str
) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "cada_edge", "bench", str(model), "--duration", "600", "--warmup", "0"]
    command += ["--frame-size", "40x60", "--threads", "1", "--out", str(out), "--max-p99", "0.000001"]
    # A busy machine takes a while until it measures: before that there is nothing to print.
    for wait_s in (4, 10, 30, 90):
        out.unlink(missing_ok=True)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has them ignore SIGINT: the command must not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        time.sleep(wait_s)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        if out.is_file():
            break
    assert process.returncode == code, stderr
    assert "warning: the run was interrupted: this is what had been measured" in stdout
    assert stderr.rstrip().endswith(last)
    record: dict[str, Any] = json.loads(out.read_text())
    assert record["interrupted"]
    # A part of a run passes no gate and fails none.
    assert record["gates"] == []
