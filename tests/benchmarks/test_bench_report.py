"""The report in its forms, of one short run on a real engine."""

from __future__ import annotations

import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.benchmarks.bench_charts import draw_histogram, draw_series, draw_stages
from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_machine import machine_lines
from cada_edge.benchmarks.bench_page import to_html
from cada_edge.benchmarks.bench_run import run_bench
from cada_edge.benchmarks.bench_text import to_markdown, to_text

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"
VOID = {"meta", "link", "img", "br", "hr", "source", "input"}


@pytest.fixture(scope="module", params=["latency", "camera"])
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models under names that trip a careless writer, in turns."""
    folder = tmp_path_factory.mktemp("models")
    write = runpy.run_path(str(CONFTEST))["_write_tiny_model"]
    models = [write(folder / name) for name in ("a | b.onnx", "<c>.onnx")]
    config = BenchConfig(mode=request.param, duration_s=0.6, warmup_s=0, frame_hw=(40, 60), threads=1, fps=20)
    found = run_bench(models, config, backends=["onnxruntime"])
    found["gates"] = [{"label": "<c>.onnx", "what": "p99 9 ms, limit 1 ms", "passed": False}]
    found["subjects"][0]["energy"] = [
        {"scope": "GPU board", "joules": 5.0, "mean_w": 12.5, "images_per_joule": 3.25}
    ]
    return found


def test_the_text_has_every_part(record: dict[str, Any]) -> None:
    text = to_text(record)
    latency = record["subjects"][0]["latency_ms"]
    assert f"{latency['p99']:.3f}" in text or f"{latency['p99']:.2f}" in text
    assert re.search(rf"^a \| b\.onnx +{latency['n']} ", text, re.MULTILINE)
    for title in ("Stages, mean ms", "Ratios", "Models", "Machine", "images per joule"):
        assert title in text
    assert ("Frames of the cameras" in text) == (record["config"]["mode"] == "camera")
    assert "FAILED: <c>.onnx: p99 9 ms, limit 1 ms" in text
    assert "warning: there was no warm-up" in text
    assert "12.5" in text
    assert "3.25" in text


def test_markdown_tables_have_equal_rows(record: dict[str, Any]) -> None:
    lines = to_markdown(record).splitlines()
    tables: list[list[int]] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            # A bar in a name must not become a column.
            columns = len(re.findall(r"(?<!\\)\|", line))
            if not before.startswith("|"):
                tables.append([])
            tables[-1].append(columns)
    assert len(tables) >= 5
    assert all(len(set(columns)) == 1 and len(columns) >= 3 for columns in tables)


class _Page(HTMLParser):
    """Checks that every element is closed, and collects addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(record: dict[str, Any]) -> None:
    text = to_html(record)
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.addresses == []
    assert "script" not in page.tags
    assert "//" not in re.sub(r"<!doctype html>", "", text)
    # A histogram and a time series for each model, and the stages of both.
    assert page.tags.count("svg") == 5
    assert "&lt;c&gt;.onnx" in text
    assert "<c>" not in text
    assert "FAILED: &lt;c&gt;.onnx" in text
    assert "Reasons to doubt these figures" in text


def test_the_picture_has_charts_of_every_model(record: dict[str, Any]) -> None:
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib", reason="pip install 'cada-edge[bench]'")
    from cada_edge.benchmarks.bench_picture import to_picture

    whole = cv2.imdecode(np.frombuffer(to_picture(record), np.uint8), cv2.IMREAD_COLOR)
    one = {**record, "subjects": record["subjects"][:1]}
    half = cv2.imdecode(np.frombuffer(to_picture(one), np.uint8), cv2.IMREAD_COLOR)
    assert whole.shape[1] == half.shape[1] == 1500
    assert whole.shape[0] - half.shape[0] >= 300
    ink = (whole < 250).any(axis=2)
    # Something is drawn in each quarter: two histograms at the left, two courses at the right.
    rows, columns = whole.shape[0] // 3, whole.shape[1] // 2
    for row in range(2):
        for column in range(2):
            quarter = ink[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            assert quarter.mean() > 0.005


def test_a_histogram_counts_what_is_beyond_its_scale() -> None:
    values = np.concatenate([np.full(1000, 10.0), [50.0, 900.0]])
    svg = draw_histogram(values, {"p50": 10.0, "p99": 10.0}, alternative="a & b", most_ms=12.0)
    assert "2 beyond, up to 900.0 ms" in svg
    assert 'aria-label="a &amp; b"' in svg
    assert "beyond" not in draw_histogram(values, {}, alternative="", most_ms=1000.0)
    heights = [float(height) for height in re.findall(r'class="bars"[^>]*height="([\d.]+)"', svg)]
    assert len(heights) == 1
    assert heights[0] > 100


def test_a_series_keeps_every_peak_and_stops_between_blocks() -> None:
    at_s = np.linspace(0, 10, 5000)
    values = np.full(5000, 5.0)
    values[2500] = 200.0
    blocks = np.repeat([0, 1], 2500)
    svg = draw_series(at_s, values, blocks, alternative="series", limit_ms=33.0)
    assert svg.count("<polyline") == 2
    tops = [float(y) for y in re.findall(r'class="range"[^>]*y2="([\d.]+)"', svg)]
    assert min(tops) < 40 < np.median(tops)
    assert "33.0 ms" in svg


def test_stage_bars_add_up_and_survive_a_negative_rest() -> None:
    svg = draw_stages({"m": {"preprocess": 1.0, "compute": 3.0, "unaccounted": -0.5}}, alternative="stages")
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', svg)]
    assert len(widths) == 2
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)
    assert "3.50 ms" in svg


def test_the_machine_on_a_jetson_and_on_a_gpu_box(record: dict[str, Any]) -> None:
    machine = {
        **record["machine"],
        "gpus": ["RTX A2000 (compute capability 8.6)"],
        "driver": "580.65",
        "driver_cuda": "13.0",
        "gpu": {
            "gpus": 2,
            "name": "RTX A2000",
            "sm_mhz": [1700.0, 1800.0, 1900.0],
            "memory_mhz": None,
            "temperature_c": [60.0, 61.0, 62.0],
            "power_w": [30.0, 32.0, 33.0],
            "throttled": ["power cap"],
        },
        "jetson": {
            "jetson": "Jetson Orin Nano",
            "power mode": "15W",
            "tegrastats": {
                "rails_mw": {"VDD_IN": 12479.0},
                "temperatures_c": {"tj": 53.9},
                "gpu_mhz": [306, 621],
            },
            "tegrastats_reason": None,
        },
    }
    lines = machine_lines(machine)
    assert ("GPU clock", "1700 to 1900 MHz, mean 1800") in lines
    assert ("GPU throttling", "power cap") in lines
    assert ("GPU that was read", "RTX A2000") in lines
    assert ("driver", "580.65, CUDA up to 13.0") in lines
    assert ("power mode", "15W") in lines
    assert ("rails, mean", "VDD_IN 12.48 W") in lines
    assert ("temperatures, highest", "tj 53.9 °C") in lines
    assert ("GPU clock", "306 to 621 MHz") in lines
    silent = {**machine["jetson"], "tegrastats": None, "tegrastats_reason": "tegrastats is not on the PATH"}
    assert ("tegrastats", "tegrastats is not on the PATH") in machine_lines({**machine, "jetson": silent})
