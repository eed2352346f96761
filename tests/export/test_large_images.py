"""Above 619 pixels a side the score's top 1 % has no TopK: the whole way at 640."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from cada_edge import Detector
from cada_edge.export.reference import run_torch
from cada_edge.export.to_onnx import export_onnx
from cada_edge.runtime.parity import verify
from cada_edge.trainer.checkpoint import load_checkpoint
from cada_edge.trainer.scoring import TOP_K_LIMIT


def test_export_verify_detect_at_640(large_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(large_checkpoint)
    assert checkpoint.model.scorer.count == 4096 > TOP_K_LIMIT
    result = export_onnx(large_checkpoint, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(result.model).graph.node]
    assert "TopK" not in kinds
    assert kinds.count("Greater") == 40 + 1
    frames = np.random.default_rng(0).integers(0, 256, (3, 640, 640, 3), np.uint8)
    frames[1], frames[2] = 0, 255
    score, maps, _ = run_torch(checkpoint.model, frames)
    wanted = np.sort(maps.astype(np.float64).reshape(3, -1))[:, -4096:].mean(1)
    np.testing.assert_allclose(score, wanted, rtol=1e-6, atol=1e-6)
    for backend in ("onnxruntime", "openvino"):
        assert verify(result.model, backend=backend, threads=1).max_score_difference <= 1e-4
        with Detector(result.model, backend=backend, threads=1) as detector:
            found = [detection.score for detection in detector.batch(list(frames))]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
