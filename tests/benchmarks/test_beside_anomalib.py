from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import beside_anomalib
from cada_edge.benchmarks.beside_anomalib import PeerFigures, main, make_environment, measure
from cada_edge.errors import BackendError

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"

DOUBLE = """
import json, sys, time
folder, encoder, precision = sys.argv[1:]
assert open(f"{folder}/frames.npy", "rb").read(6) == b"\\x93NUMPY"
print("a library says something")
print(json.dumps("bf16" if precision == "default" else precision), flush=True)
for line in sys.stdin:
    print(json.dumps([0.05] * int(line)), flush=True)
"""
"""In anomalib's place, which takes minutes to install: it is asked the same way, and tells its own times."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path: Path = runpy.run_path(str(CONFTEST))["_write_tiny_model"](tmp_path / "tiny.onnx")
    return path


def test_each_model_is_measured_beside_both_precisions(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_anomalib, "PEER", DOUBLE)
    figures = measure((model, model), Path(sys.executable), frame_hw=(40, 60), turns=2)
    assert [each.peer_precision for each in figures] == ["bf16, its default"] * 2 + ["f32"] * 2
    for each in figures:
        assert each.peer_ms == pytest.approx(50)
        assert len(each.ratios) == 2
        assert each.ratios[0] > 0
        assert each.ours_ms > 0


def test_its_failure_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_anomalib, "PEER", "raise SystemExit('no such backbone')")
    with pytest.raises(BackendError, match="anomalib failed: no such backbone"):
        measure((model,), Path(sys.executable), frame_hw=(40, 60), turns=1)


def test_an_environment_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match=r"anomalib\[openvino\]==2.7.\* cannot be installed into"):
        make_environment(tmp_path / "file" / "environment")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command(model: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    figures = [PeerFigures("m.onnx", "openvino 2026", "f32", 40.0, 60.0, (0.6, 0.7, 0.66))]
    monkeypatch.setattr(beside_anomalib, "measure", lambda *_, **__: figures)
    monkeypatch.setattr(beside_anomalib, "make_environment", lambda folder: folder)
    result = CliRunner().invoke(main, [str(model), *(["--json"] if as_json else [])])
    assert result.exit_code == 0, result.output
    if as_json:
        assert json.loads(result.stdout)["figures"][0]["ratios"] == [0.6, 0.7, 0.66]
    else:
        assert result.stdout == (
            "m.onnx on openvino 2026: 40.0 ms; anomalib in f32: 60.0 ms; x0.66 (0.60 to 0.70 over 3 turns)\n"
        )
