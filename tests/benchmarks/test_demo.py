from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cada_edge import Detector
from cada_edge.benchmarks.demo import DemoConfig, run_demo
from cada_edge.benchmarks.upsampling import compare
from cada_edge.errors import ConfigError
from cada_edge.trainer.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The whole demo, at a size and length that show the way and nothing about accuracy."""
    out = tmp_path_factory.mktemp("demo")
    config = DemoConfig(
        size=64,
        iterations=3,
        aligner_iterations=30,
        encoder="resnet18",
        encoder_weights="random",
        train_per_kind=4,
        test_per_kind=2,
    )
    return out, run_demo(out, config)


def test_summary_has_what_it_promises(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    assert json.loads((out / "summary.json").read_text()) == summary
    for name in ("none", "cada", "class_aware"):
        for protocol in ("mixed", "averaged"):
            values = summary[name][protocol]
            assert {"i_auroc", "i_ap", "p_auroc", "p_ap"} <= values.keys()
            assert all(0 <= values[key] <= 100 for key in ("i_auroc", "i_ap", "p_auroc", "p_ap"))
    assert summary["parity"]["max_score_difference"] <= 1e-4
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    for name in ("checkpoint", "model", "report"):
        assert Path(summary[name]).is_file()


def test_the_three_alignments_share_one_base(demo: tuple[Path, dict[str, Any]]) -> None:
    _, summary = demo
    figures = [summary[name]["mixed"]["i_auroc"] for name in ("none", "cada", "class_aware")]
    assert len(set(figures)) > 1


def test_the_model_has_the_threshold_that_is_reported(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    assert Detector(out / "model.onnx").threshold == summary["threshold"]
    assert load_checkpoint(out / "run" / "checkpoint.pt").threshold == summary["threshold"]


def test_report_is_one_file(demo: tuple[Path, dict[str, Any]]) -> None:
    out, _ = demo
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "<img" in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_upsampling_changes_the_maps_and_hardly_the_scores(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    figures = compare(out / "run" / "checkpoint.pt", out / "line")
    assert figures["centred"] == summary["cada"]["mixed"]
    assert figures["corners"]["p_ap"] != figures["centred"]["p_ap"]


def test_bad_size() -> None:
    with pytest.raises(ConfigError, match="size 100 came; wanted a multiple of 32"):
        DemoConfig(size=100)
