"""Every base method goes the whole way: train, resume, evaluate, export, verify, detect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.detector import Detector
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.config import BASES
from cada_edge.trainer.evaluate_checkpoint import score_samples
from cada_edge.trainer.fit import fit


@pytest.mark.parametrize("base", list(BASES))
def test_train_resume_evaluate_export_detect(
    base: str,
    small_line: Path,
    tmp_path: Path,
    checkpoint_of: Callable[[str], Path],
    graph_of: Callable[..., Path],
) -> None:
    index = index_dataset(small_line)
    first = load_checkpoint(checkpoint_of(base))
    config = dataclasses.replace(first.config, save_every=2)

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int, loss: float) -> None:
        if stage == "base" and done == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(index, tmp_path / "halved", config, progress=stop)
    halved = fit(index, tmp_path / "halved", config, resume=True).checkpoint
    second = load_checkpoint(halved)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )

    scored = score_samples(first, index.test, ["none", "cada"], device=torch.device("cpu"))
    with Detector(graph_of(base, "fp32"), threads=1) as detector:
        scores = [detection.score for detection in detector.stream([sample.image for sample in index.test])]
    assert scores == pytest.approx(scored["cada"].scores.tolist(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("base", list(BASES))
def test_any_batch(
    base: str, precision: str, checkpoint_of: Callable[[str], Path], graph_of: Callable[..., Path]
) -> None:
    """Batches of 1, 2 and 7 give what PyTorch gives for each frame alone."""
    model = graph_of(base, precision)
    frames = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8)
    trained = load_checkpoint(checkpoint_of(base)).model
    with torch.inference_mode():
        outputs = [trained(torch.from_numpy(frame)[None]) for frame in frames]
    score, maps, stats = (torch.cat(column).numpy() for column in zip(*outputs, strict=True))
    tolerance = {"fp32": 1e-4, "fp16": 1e-2}[precision]
    for backend in ("onnxruntime", "openvino"):
        engine = choose_backend(model, backend, threads=1)
        engine.open()
        for batch in (1, 2, 7):
            found = engine.infer(frames[:batch])
            for got, want in zip(found, (score, maps, stats), strict=True):
                np.testing.assert_allclose(got, want[:batch], atol=tolerance, rtol=tolerance)
        engine.close()
