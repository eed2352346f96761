from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cada_edge.benchmarks import cpu_models, cpu_tables
from cada_edge.benchmarks.cpu_models import ARCHITECTURES, Architecture
from cada_edge.benchmarks.cpu_tables import cells, main, tables

CONFTEST = Path(__file__).parents[1] / "runtime" / "conftest.py"


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tiny model in the place of every architecture, which takes minutes to build; what was asked for."""
    write = runpy.run_path(str(CONFTEST))["_write_tiny_model"]
    asked: list[str] = []

    def export(architecture: Architecture, work: Path, *, alignment: str = "cada") -> Path:
        asked.append(f"{architecture.name} {alignment}")
        path: Path = write(work / f"{architecture.name}-{alignment}.onnx")
        return path

    monkeypatch.setattr(cpu_tables, "export_architecture", export)
    return asked


def test_every_cell_of_the_tables_is_there(tmp_path: Path) -> None:
    names = list(cells(tmp_path, duration_s=1.0, warmup_s=0.0, threads=None))
    assert len(names) == len(set(names)) == 4 * 2 + 4 * 2 + 2 * 2 + 1
    assert {
        "latency-UniAD-8",
        "overhead-RevDist-WRN50-openvino",
        "aligner-RevDist-resnet18-onnxruntime",
    } <= set(names)
    paper = next(each for each in ARCHITECTURES if each.name == "UniAD")
    assert (paper.encoder, paper.size) == ("tf_efficientnet_b4", 224)


def test_cells_are_measured_once_and_shown(tiny_models: list[str], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    quick = ["--out", str(tmp_path), "--duration", "0.1", "--warmup", "0", "--threads", "1"]
    only = ["--only", "latency-UniAD-1", "--only", "aligner-RevDist-resnet18-openvino"]
    only += ["--only", "overhead-UniAD-onnxruntime"]
    result = CliRunner().invoke(main, [*quick, *only])
    assert result.exit_code == 0, result.output
    assert set(tiny_models) == {"UniAD cada", "RevDist-resnet18 none", "RevDist-resnet18 cada"}
    assert (tmp_path / "cpu.md").read_text() == result.stdout
    for title in ("Latency on a CPU", "What the Detector adds", "What the alignment costs"):
        assert f"### {title}" in result.stdout
    assert "| UniAD | 16x16 | onnxruntime" in result.stdout
    assert "| its 95 % interval |" in result.stdout
    assert "Weights are random" in result.stdout
    record = json.loads((tmp_path / "aligner-RevDist-resnet18-openvino.json").read_text())
    assert [subject["label"] for subject in record["subjects"]] == [
        "RevDist-resnet18-none.onnx",
        "RevDist-resnet18-cada.onnx",
    ]
    tiny_models.clear()
    again = CliRunner().invoke(main, [*quick, *only])
    assert tiny_models == []
    assert again.stdout == result.stdout
    assert "latency-UniAD-1: kept" in again.stderr
    assert "measurements" not in again.stdout
    record["machine"]["cpu"] = "Another Processor"
    (tmp_path / "aligner-RevDist-resnet18-openvino.json").write_text(json.dumps(record))
    mixed = CliRunner().invoke(main, [*quick, *only])
    assert "warning: these are cells of 2 measurements" in mixed.stdout
    assert "  * Another Processor" in mixed.stdout
    # Cells of calls and processes are told apart too.
    (tmp_path / "aligner-RevDist-resnet18-openvino.json").unlink()
    call = json.loads((tmp_path / "overhead-UniAD-onnxruntime.json").read_text())
    call["machine"]["commit"] = "f" * 40
    (tmp_path / "overhead-UniAD-onnxruntime.json").write_text(json.dumps(call))
    mixed = CliRunner().invoke(main, [*quick, "--only", "latency-UniAD-1", "--only", "overhead-UniAD-onnx"])
    assert "warning: these are cells of 2 measurements" in mixed.stdout
    assert "commit fffffff" in mixed.stdout


def test_a_model_of_other_code_is_built_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="models are exported from PyTorch")
    built: list[Path] = []

    def export(checkpoint: Path, out: Path, config: object) -> None:
        built.append(out)
        out.write_bytes(b"graph")

    monkeypatch.setattr("cada_edge.export.to_onnx.export_onnx", export)
    monkeypatch.setattr(cpu_models, "_checkpoint", lambda architecture, work: work / "checkpoint.pt")
    machine = {"commit": "a" * 40, "commit_modified": False}
    monkeypatch.setattr(cpu_models, "describe_machine", lambda: machine)
    model = cpu_models.export_architecture(ARCHITECTURES[0], tmp_path)
    assert cpu_models.export_architecture(ARCHITECTURES[0], tmp_path) == model
    assert built == [model]
    machine["commit_modified"] = True
    cpu_models.export_architecture(ARCHITECTURES[0], tmp_path)
    assert built == [model, model]


def test_verdicts_follow_the_goals() -> None:
    def ratio(median: float, low: float | None) -> dict[str, Any]:
        high = None if low is None else median + 0.01
        bounds = {"low": low, "high": high, "minimum": 0.9, "maximum": 1.1}
        return {"median": median, "pairs": 12, **bounds}

    subjects = [{"latency_ms": {"p50": 50.0}}, {"latency_ms": {"p50": 50.5}}]
    found: dict[str, dict[str, Any]] = {
        "aligner-RevDist-resnet18-openvino": {"subjects": subjects, "ratios": [ratio(1.01, 1.0)]},
        "aligner-RevDist-WRN50-openvino": {"subjects": subjects, "ratios": [ratio(1.03, None)]},
        "process": {
            "import_s": {"import cada_edge": 0.02},
            "memory_mib": {"openvino": {"difference": 3.2, "difference_720p": 21.0}},
        },
    }
    aligner, process = tables(found)
    assert [row[-1] for row in aligner.rows] == ["yes", "NO"]
    assert aligner.rows[0][3] == "x1.010 (95 %: 1.000 to 1.020, 12 pairs)"
    assert aligner.rows[1][3] == "x1.030 (0.900 to 1.100, 12 pairs)"
    assert process.rows[0] == ["import cada_edge", "0.020 s", "0.25 s"]
    assert process.rows[1][1:] == ["+3 MiB", "60 MB"]


def test_a_name_that_no_cell_has(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--only", "nothing"])
    assert result.exit_code == 2
    assert "--only nothing names no cell" in result.stderr
