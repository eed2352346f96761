"""The INT8 benchmark: it measures both files, and its gate holds the ratio against what is wanted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks.int8 import Int8Figures, main, require_ratio
from cada_edge.errors import CheckFailedError
from cada_edge.export.speed_ratio import SpeedRatio
from cada_edge.manifest import Parity
from cada_edge.quantization import Quantization
from cada_edge.runtime.evaluation import Evaluation, Figures

_RATIO = SpeedRatio("openvino 1.0 CPU", 50.0, 20.0, 2.5, 2.4, 2.6, 60)


def _evaluation(i_auroc: float | None) -> Evaluation:
    figures: Figures = {"i_auroc": i_auroc, "i_ap": 90.0, "p_auroc": 95.0, "p_ap": 40.0, "aupro": None}
    return Evaluation(figures, figures, {}, {}, 4, 1.0, 0.0, 50.0, {}, {})


def _figures(*speed: SpeedRatio) -> Int8Figures:
    return Int8Figures(
        model="revdist with resnet18 at 256",
        speed=speed,
        parity=Parity(64, 0.01, 0.001, 0.1, 0.02, "openvino 1.0 CPU"),
        quantization=Quantization(64, 400, "line", "0" * 64, "minmax", 35, 0.9, ("first", "second")),
        size_share=0.26,
        fp32=_evaluation(83.2),
        int8=_evaluation(83.0),
    )


def test_the_text_has_ratios_parity_and_accuracy() -> None:
    text = _figures(_RATIO).to_text()
    assert "2.50x on openvino 1.0 CPU (2.40 to 2.60 in half of 60 pairs; medians 50.0 and 20.0 ms)" in text
    assert "35 convolutions in INT8, 90.0% of the multiplications; in fp32 stay first, second" in text
    assert "largest score difference 0.0100, limit 0.0200, on 64 frames" in text
    assert "i_auroc   mixed, 83.20 % in fp32, 83.00 % in INT8 (-0.20 points)" in text
    without = dataclasses.replace(_figures(_RATIO), fp32=_evaluation(None)).to_text()
    assert "i_auroc" not in without
    assert "p_ap      mixed, 40.00 %" in without


def test_the_gate() -> None:
    require_ratio(_figures(_RATIO), 2.5)
    with pytest.raises(CheckFailedError, match=r"2.50 times the speed of fp32 came on OpenVINO; wanted 2.6"):
        require_ratio(_figures(_RATIO), 2.6)
    other = dataclasses.replace(_RATIO, backend="onnxruntime 1.0 CPU", ratio=9.0)
    with pytest.raises(CheckFailedError, match="no ratio, since OpenVINO is not installed, times"):
        require_ratio(_figures(other), 2.5)


def test_a_missing_model_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "a.png").write_bytes(b"")
    result = CliRunner().invoke(main, [str(tmp_path / "none.onnx"), str(tmp_path)])
    assert result.exit_code == 3
    assert "There is no model file at" in result.stderr


@pytest.mark.slow
def test_a_drawn_line_is_measured(tmp_path: Path) -> None:
    from cada_edge.export.to_onnx import export_onnx
    from cada_edge.runtime.datasets import index_dataset
    from cada_edge.trainer.base_method import configure
    from cada_edge.trainer.fit import fit
    from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

    config = SyntheticConfig(
        size=64, train_per_kind=12, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    line = write_line(tmp_path / "line", config)
    values = {
        "encoder": "resnet18",
        "encoder_weights": "random",
        "size": 64,
        "iterations": 4,
        "batch_size": 4,
    }
    values |= {"aligner": {"iterations": 40, "batch_size": 8}, "device": "cpu"}
    run = fit(index_dataset(line), tmp_path / "run", configure(values))
    model = export_onnx(run.checkpoint, tmp_path / "model.onnx").model
    result = CliRunner().invoke(main, [str(model), str(line), "--pairs", "5", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert [each["pairs"] for each in record["speed"]] == [5, 5]
    assert record["fp32"]["images"] == record["int8"]["images"] == 8
    assert record["fp32"]["mixed"]["p_ap"] != record["int8"]["mixed"]["p_ap"]
    assert 0 < record["size_share"] < 1
    assert record["machine"]["cpu"]
