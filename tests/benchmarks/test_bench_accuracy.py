from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.benchmarks.bench_accuracy import measure_accuracy, paper_row, require_checkpoint
from cada_edge.benchmarks.bench_tables import accuracy_tables
from cada_edge.errors import ConfigError
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest, Parity
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.evaluate_model import evaluate_model


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Two kinds in MVTec's layout; brighter is more anomalous, as for the tiny model."""
    root = tmp_path / "line"
    for kind, level in (("bolt", 40), ("nut", 90)):
        for part, value in (("train/good/0", level), ("test/good/0", level), ("test/dent/0", level + 60)):
            path = root / kind / f"{part}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), np.full((16, 16, 3), value, np.uint8))
        mask = root / kind / "ground_truth/dent/0_mask.png"
        mask.parent.mkdir(parents=True)
        assert cv2.imwrite(str(mask), np.pad(np.full((8, 8), 255, np.uint8), 4))
    return root


def test_the_figures_stand_beside_the_papers_and_say_that_they_do_not_compare(
    tiny_model: Path, line: Path
) -> None:
    figures = measure_accuracy(tiny_model, line, backend="onnxruntime")
    # Scores 40, 90 good and 100, 150 bad of 255: ranked together all bad ones are above.
    assert figures["mixed"]["i_auroc"] == 100.0
    assert figures["averaged"]["i_auroc"] == 100.0
    assert figures["images"] == 4
    assert "mixed: all kinds ranked together" in figures["protocol_line"]
    paper = figures["paper"]
    assert (paper["table"], paper["row"], paper["dataset"]) == (1, "RevDist + CADA", "MVTec AD")
    assert paper["figures"]["mixed"] == {"i_auroc": 98.0, "i_ap": 99.3, "p_auroc": 95.6, "p_ap": 53.1}
    reasons = paper["not_comparable"]
    assert reasons == [
        "other data: line with 2 kinds and 4 test images, MVTec AD has 15 kinds and 1725 test images",
        "another encoder: none, the paper has wide_resnet50_2",
        "another size: 16x16, the paper has 256x256",
        "another image score: the highest 100 % of pixels",
        "another training: the recipe default",
    ]
    entry = {"file": "tiny.onnx", "figures": figures}
    (table,) = accuracy_tables({"accuracy": [entry]})
    assert [row[0] for row in table.rows] == [
        "this file, mixed (one ranking of all kinds)",
        "  the paper's, on MVTec AD, table 1",
        "this file, averaged over kinds",
        "  the paper's, on MVTec AD, table 1",
    ]
    assert table.rows[0][1] == "100.0"
    assert table.rows[1][1:] == ["98.0", "99.3", "95.6", "53.1"]
    assert table.notes[0].startswith("NOT COMPARABLE with the paper's RevDist + CADA: other data")
    assert table.notes[1].startswith("protocol: mixed: all kinds ranked together")
    assert "drift against the checkpoint is not known" in table.notes[2]


def test_conditions_of_the_paper_are_recognised(
    tiny_model: Path, line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.benchmarks import bench_accuracy, paper

    values: dict[str, Any] = {"encoder": "wide_resnet50_2.tv_in1k", "recipe": "paper", "top_fraction": 0.01}
    dataclasses.replace(Manifest.read(tiny_model), **values).write(tiny_model)
    monkeypatch.setattr(bench_accuracy, "PAPER_SETUP", {"revdist": ("wide_resnet50_2", (16, 16))})
    facts = dict(paper.load_datasets())
    facts["mvtec"] = dataclasses.replace(facts["mvtec"], categories=2, test_images=4)
    monkeypatch.setattr(bench_accuracy, "load_datasets", lambda: facts)
    figures = measure_accuracy(tiny_model, line)
    assert figures["paper"]["not_comparable"] == []
    (table,) = accuracy_tables({"accuracy": [{"file": "tiny.onnx", "figures": figures}]})
    assert "the paper's row: RevDist + CADA; data, encoder, size and recipe are its own" in table.notes


def test_rows_of_the_paper() -> None:
    found = paper_row("uniad", "none", "mvtec")
    assert found is not None
    assert (found[0], found[1].name) == (1, "uniad")
    found = paper_row("revdist", "cada-sigma", "btad")
    assert found is not None
    assert found[0] == 5
    assert paper_row("uniad", "cada-sigma", "mvtec") is None
    assert paper_row("autoencoder", "none", "mvtec") is None


def test_the_exports_own_drift_is_told(tiny_model: Path, line: Path) -> None:
    parity = Parity(64, 1e-6, 1e-6, 1e-4, 1e-4, "openvino", 0.012, None)
    dataclasses.replace(Manifest.read(tiny_model), parity=parity).write(tiny_model)
    figures = measure_accuracy(tiny_model, line)
    assert figures["exported"]["auroc_drift"] == 0.012
    (table,) = accuracy_tables({"accuracy": [{"file": "tiny.onnx", "figures": figures}]})
    assert "drift against the checkpoint, as measured at the export: 0.012 points of I-AUROC" in table.notes


def test_drift_against_the_checkpoints_own_evaluation(tiny_model: Path, line: Path, tmp_path: Path) -> None:
    figures = measure_accuracy(tiny_model, line)
    own = evaluate_model(tiny_model, index_dataset(line)).to_dict()
    theirs = {
        **own,
        "mixed": {**figures["mixed"], "i_auroc": 99.5, "p_ap": None},
        "protocol": {**own["protocol"], "engine": "torch", "threshold": 7.0},
        "model_sha256": Manifest.read(tiny_model).checkpoint_sha256,
    }
    path = tmp_path / "checkpoint-eval.json"
    path.write_text(json.dumps(theirs))
    drift = measure_accuracy(tiny_model, line, checkpoint=path)["drift"]
    assert drift["mixed"]["i_auroc"] == pytest.approx(0.5)
    assert drift["mixed"]["p_ap"] is None
    assert drift["averaged"]["i_auroc"] == 0.0
    with_drift = {**figures, "drift": drift}
    (table,) = accuracy_tables({"accuracy": [{"file": "tiny.onnx", "figures": with_drift}]})
    assert table.rows[1] == ["  minus checkpoint-eval.json, in points", "+0.50", "+0.00", "+0.00", "-"]
    protocol = theirs["protocol"]
    for change, message in (
        ({"images": 5}, "images 5 instead of 4"),
        ({"per_kind": {"bolt": {}, "screw": {}}}, r"kinds \['bolt', 'screw'\] instead of \['bolt', 'nut'\]"),
        ({"protocol": {**protocol, "alignment": "none"}}, "alignment none instead of cada"),
        ({"protocol": {**protocol, "base": "uniad"}}, "base uniad instead of revdist"),
        ({"protocol": {**protocol, "encoder": "resnet18"}}, "encoder resnet18 instead of none"),
        ({"protocol": {**protocol, "resolution": "32x32"}}, "resolution 32x32 instead of 16x16"),
        ({"protocol": {**protocol, "masks": "nearest"}}, "masks nearest instead of pil-bilinear>0"),
    ):
        path.write_text(json.dumps({**theirs, **change}))
        with pytest.raises(ConfigError, match=f"has figures of {message}; wanted those of what this file"):
            measure_accuracy(tiny_model, line, checkpoint=path)
    path.write_text(json.dumps({**theirs, "model_sha256": "f" * 64}))
    with pytest.raises(ConfigError, match="is of the checkpoint ffffffffffff; wanted 000000000000"):
        measure_accuracy(tiny_model, line, checkpoint=path)
    for text in ("[]", "{}", "no"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no evaluation"):
            measure_accuracy(tiny_model, line, checkpoint=path)


def test_the_checkpoint_of_another_training_is_refused(tiny_model: Path, line: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="checkpoints are read with PyTorch")
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"another training")
    with pytest.raises(ConfigError, match="wanted 000000000000, which the onnx file of revdist was"):
        require_checkpoint(checkpoint, [Manifest.read(tiny_model)])
    own = dataclasses.replace(Manifest.read(tiny_model), checkpoint_sha256=sha256_file(checkpoint))
    require_checkpoint(checkpoint, [own])


def test_a_checkpoint_without_torch_names_the_extra(
    tiny_model: Path, line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.errors import MissingExtraError

    checkpoint = line / "checkpoint.pt"
    with pytest.raises(ConfigError, match=r"There is no .*checkpoint.pt; wanted the checkpoint"):
        measure_accuracy(tiny_model, line, checkpoint=checkpoint)
    checkpoint.touch()
    monkeypatch.setattr("cada_edge.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="Evaluating a checkpoint needs the package 'torch'"):
        measure_accuracy(tiny_model, line, checkpoint=checkpoint)


def test_figures_that_are_missing_say_why(tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for name, value in (("normal/a", 40), ("test_normal/b", 40), ("anomalous/c", 100)):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True)
        assert cv2.imwrite(str(path), np.full((16, 16, 3), value, np.uint8))
    figures = measure_accuracy(tiny_model, root)
    assert figures["mixed"]["i_auroc"] == 100.0
    assert figures["mixed"]["p_auroc"] is None
    # Of another layout than any of the paper's: its main data set stands there, as not comparable.
    assert figures["paper"]["dataset"] == "MVTec AD"
    assert figures["paper"]["not_comparable"][0].startswith("other data: parts with 1 kinds")
    (table,) = accuracy_tables({"accuracy": [{"file": "tiny.onnx", "figures": figures}]})
    assert table.rows[0][3:] == ["-", "-"]
    assert any("no mask for 1 of 1" in note for note in table.notes)
