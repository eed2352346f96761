"""What a box beside the camera does works without the training's packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = ("torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors", "tqdm", "matplotlib", "yaml")


def _run(program: str, *arguments: object) -> str:
    """Run a program in an interpreter where importing what is blocked fails as if it were not installed."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
    check = f"\nassert not [name for name in {BLOCKED!r} if sys.modules[name] is not None]\n"
    done = subprocess.run(
        [sys.executable, "-c", block + program + check, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _cli(*arguments: object) -> str:
    return _run("from cada_edge.cli import main\nmain(sys.argv[1:], standalone_mode=False)", *arguments)


def test_the_block_works() -> None:
    with pytest.raises(AssertionError, match="import of torch halted"):
        _run("import torch")


def test_detector_and_stream(tiny_model: Path, mvtec_root: Path) -> None:
    program = """
import numpy as np
from cada_edge import Detector, draw
with Detector(sys.argv[1]) as detector:
    frame = np.full((40, 30, 3), 204, np.uint8)
    detection = detector(frame)
    assert abs(detection.score - 0.8) < 1e-5 and detection.is_anomalous, detection
    assert draw(frame, detection).shape == frame.shape
    assert [each.score for each in detector.batch([frame, frame])] == [detection.score] * 2
    print(*(each.frame_index for each in detector.stream(sys.argv[2])))
"""
    assert _run(program, tiny_model, mvtec_root / "bottle/train/good") == "0 1 2\n"


def test_predict(tiny_model: Path, mvtec_root: Path, tmp_path: Path) -> None:
    good = mvtec_root / "bottle/train/good"
    printed = _cli("predict", tiny_model, good, "--json", "--save", tmp_path / "drawn")
    scores = [json.loads(line)["score"] for line in printed.splitlines()]
    # Flat images of 100, 101, 102 with one white pixel in 120.
    assert scores == pytest.approx([0.397, 0.401, 0.405], abs=0.005)
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_calibrate(tiny_model: Path, mvtec_root: Path) -> None:
    printed = json.loads(_cli("calibrate", tiny_model, mvtec_root / "bottle/train/good", "--json"))
    assert printed["threshold"] == pytest.approx(0.405, abs=0.005)


def test_verify(tiny_model: Path) -> None:
    assert json.loads(_cli("verify", tiny_model, "--json"))["max_score_difference"] < 1e-4


def test_eval(tiny_model: Path, mvtec_root: Path) -> None:
    printed = json.loads(_cli("eval", tiny_model, mvtec_root, "--json"))
    assert set(printed["per_kind"]) == {"bottle", "Schraube grün"}
    assert 0 <= printed["mixed"]["i_auroc"] <= 100


def test_inspect(tiny_model: Path) -> None:
    assert json.loads(_cli("inspect", tiny_model, "--json"))["model_file"] == tiny_model.name


@pytest.mark.parametrize("mode", ["latency", "throughput", "camera"])
def test_bench_with_accuracy_and_every_report(
    tiny_model: Path, mvtec_root: Path, tmp_path: Path, mode: str
) -> None:
    outs = [tmp_path / f"report{suffix}" for suffix in (".json", ".md", ".html")]
    given = [argument for out in outs for argument in ("--out", out)]
    quick = ("--duration", "0.3", "--warmup", "0", "--frame-size", "40x60", "--mode", mode)
    printed = json.loads(_cli("bench", tiny_model, *quick, "--data", mvtec_root, *given, "--json"))
    (subject,) = printed["subjects"]
    assert subject["latency_ms"]["n"] == len(subject["samples"]["total_ms"]) >= 1
    figures = printed["accuracy"][0]["figures"]
    evaluated = json.loads(_cli("eval", tiny_model, mvtec_root, "--json"))
    assert figures["mixed"] == evaluated["mixed"]
    assert figures["averaged"] == evaluated["averaged"]
    assert figures["paper"]["figures"]["mixed"]["i_auroc"] == 98.0
    assert figures["paper"]["not_comparable"]
    assert json.loads(outs[0].read_text()) == printed
    assert all(out.stat().st_size > 2000 for out in outs)


def test_an_engine_is_built_from_an_onnx_file(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'cada-edge[rtx]'")
    out = tmp_path / "tiny.engine"
    options = ["--format", "engine", "--target", "rtx", "--compute-capability", "8.6", "--out", out]
    printed = json.loads(_cli("export", tiny_model, *options, "--json"))
    assert (printed["precision"], printed["engine"]["half_share"]) == ("fp32", 0)
    assert printed["parity"]["max_score_difference"] < 1e-4
    assert out.is_file()
