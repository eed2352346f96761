from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cada_edge import Detector
from cada_edge.benchmarks import demo as demo_module
from cada_edge.benchmarks.demo import DemoConfig, run_demo
from cada_edge.benchmarks.demo_result import VariantResult
from cada_edge.benchmarks.upsampling import compare
from cada_edge.errors import CheckFailedError, ConfigError, InputError
from cada_edge.trainer.checkpoint import load_checkpoint

_SMALL = DemoConfig(
    size=64,
    iterations=3,
    aligner_iterations=30,
    encoder="resnet18",
    encoder_weights="random",
    train_per_kind=4,
    test_per_kind=2,
    require_gain=False,
)
"""Of a size and length that show the way and nothing about accuracy."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The whole demo, small."""
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(out, _SMALL)


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


def test_no_gain_fails_after_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = demo_module._evaluate

    def exchanged(*arguments: Any) -> dict[str, VariantResult]:
        """Give the alignment the figures that it has without, and so no gain."""
        results = evaluate(*arguments)
        return {**results, "cada": results["none"]}

    monkeypatch.setattr(demo_module, "_evaluate", exchanged)
    wanted = r"I-AUROC [\d.]+ % came with the alignment cada and [\d.]+ % without; wanted more .*report\.html"
    with pytest.raises(CheckFailedError, match=wanted):
        run_demo(tmp_path, dataclasses.replace(_SMALL, require_gain=True))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cada"] == summary["none"]
    assert Path(summary["report"]).is_file()


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ({"encoder": "resnet81"}, r"encoder 'resnet81' is not known to timm"),
        ({"encoder": "resnet18", "encoder_weights": "none.pth"}, r"none\.pth"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_refused_before_the_line_is_drawn(
    tmp_path: Path, option: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(InputError, match=wanted):
        run_demo(tmp_path / "demo", DemoConfig(**option))
    assert not (tmp_path / "demo").exists()


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="size 100 came; wanted a multiple of 32"):
        DemoConfig(size=100)
    with pytest.raises(ConfigError, match=r"threads 0 came; wanted at least 1\. Leave --threads out"):
        DemoConfig(threads=0)
    with pytest.raises(ConfigError, match=r"iterations 0 came; wanted"):
        DemoConfig(iterations=0)
