"""CONTRIBUTING's example of a base method is run as it stands: train, evaluate, export, detect."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from cada_edge.errors import ConfigError
from cada_edge.export.to_onnx import export_onnx
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.detector import Detector
from cada_edge.trainer.base_method import configure, load_base
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES
from cada_edge.trainer.evaluate_checkpoint import score_samples
from cada_edge.trainer.fit import fit
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

_PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Write the example to a module, enter it into the table; return its number of lines."""
    found = re.search(r"<!-- runs: base method -->\n```python\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None, "no example of a base method in CONTRIBUTING.md"
    (tmp_path / "autoencoder_example.py").write_text(found.group(1), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BASES, "autoencoder", "autoencoder_example:Autoencoder")
    monkeypatch.delitem(sys.modules, "autoencoder_example", raising=False)
    return len(found.group(1).splitlines())


def test_the_example_goes_the_whole_way(autoencoder: int, tmp_path: Path) -> None:
    assert autoencoder <= 60
    line = SyntheticConfig(
        size=64, train_per_kind=8, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    index = index_dataset(write_line(tmp_path / "line", line))
    config = configure(
        {
            "base": "autoencoder",
            "encoder": "resnet18",
            "encoder_weights": "random",
            "size": 64,
            "iterations": 3,
        }
        | {"batch_size": 4, "device": "cpu", "aligner": {"iterations": 40, "batch_size": 8}}
    )
    assert (config.aligner.beta, config.aligner.iterations) == (1.0, 40)
    checkpoint = fit(index, tmp_path / "run", config).checkpoint
    scored = score_samples(load_checkpoint(checkpoint), index.test, ["cada"], device=torch.device("cpu"))[
        "cada"
    ]
    exported = export_onnx(checkpoint, tmp_path / "model.onnx")
    with Detector(exported.model, backend="onnxruntime", threads=1) as detector:
        scores = [detection.score for detection in detector.stream([sample.image for sample in index.test])]
    assert scores == pytest.approx(scored.scores.tolist(), rel=1e-3, abs=1e-3)


def test_its_options_are_checked(autoencoder: int) -> None:
    with pytest.raises(ConfigError, match="option width 0 came; wanted a whole number from 1"):
        load_base("autoencoder").Options(width=0)
