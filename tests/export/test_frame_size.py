"""Files that take the camera's own frames: the resize is in the graph, and all of the product knows it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cada_edge import Detector
from cada_edge.cli import main
from cada_edge.errors import ConfigError, FrameError
from cada_edge.export import auroc_drift
from cada_edge.export.graph import FusedGraph
from cada_edge.export.reference import reference_of, run_torch
from cada_edge.export.to_onnx import ExportConfig, ExportResult, export_onnx
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.parity import read_reference, score_limit, verify
from cada_edge.runtime.preprocess import resize
from cada_edge.trainer.checkpoint import load_checkpoint

CAMERA_HW = (1080, 1920)


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("camera") / "model.onnx"
    return export_onnx(small_checkpoint, out, ExportConfig(frame_hw=CAMERA_HW))


def _frame(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (27, 48, 3), np.uint8)
    return coarse.repeat(40, 0).repeat(40, 1)


def test_it_is_within_the_limit_of_the_file_without_and_says_what_it_takes(exported: ExportResult) -> None:
    assert exported.parity.max_score_difference <= exported.parity.score_limit == 1e-4
    manifest = Manifest.read(exported.model)
    assert (manifest.frame_hw, manifest.input_hw) == (CAMERA_HW, (64, 64))
    engine = choose_backend(exported.model, "onnxruntime")
    engine.open()
    assert engine.spec.size_hw == CAMERA_HW
    engine.close()


def test_the_detector_gives_what_pytorch_gives_for_the_resized_frame(
    exported: ExportResult, small_checkpoint: Path
) -> None:
    frames = [_frame(0), _frame(1)]
    model = load_checkpoint(small_checkpoint).model
    score, maps, _ = run_torch(model, np.stack([resize(frame, (64, 64)) for frame in frames]))
    for backend in ("onnxruntime", "openvino"):
        with Detector(exported.model, backend=backend, threads=1) as detector:
            assert (detector.frame_hw, detector.size_hw) == (CAMERA_HW, (64, 64))
            detections = detector.batch(frames)
        for row, detection in enumerate(detections):
            assert detection.score == pytest.approx(score[row], abs=1e-4)
            assert detection.anomaly_map is not None
            np.testing.assert_allclose(detection.anomaly_map, maps[row], atol=1e-3)


def test_another_size_is_refused(exported: ExportResult) -> None:
    with Detector(exported.model, threads=1) as detector:
        with pytest.raises(
            FrameError,
            match=r"A frame of 480x640 came; the model takes frames of 1080x1920 only, since it was exported "
            r"with --frame-size 1080x1920. Set the camera to 1080x1920, or export the checkpoint with",
        ):
            detector(np.zeros((480, 640, 3), np.uint8))
        with pytest.raises(FrameError, match="Frame 1 of the batch: A frame of 1920x1080 came"):
            detector.batch([_frame(0), np.zeros((1920, 1080, 3), np.uint8)])


def test_verify_replays_a_small_reference_of_the_cameras_frames(exported: ExportResult) -> None:
    reference = read_reference(exported.reference)
    assert reference.frames.shape[1:] == (*CAMERA_HW, 3)
    assert len(reference.frames) <= 16
    assert sorted(set(reference.label.tolist())) == [-1, 0, 1]
    assert exported.reference.stat().st_size < 4 << 20
    assert (reference.frames[-3].max(), reference.frames[-2].min()) == (0, 255)
    assert verify(exported.model, backend="onnxruntime", threads=1).images == len(reference.frames)


def test_the_reference_keeps_the_spread_of_the_scores(small_checkpoint: Path) -> None:
    """The fp16 limit is taken from it: a few frames picked from one end would make it tighter or looser."""
    checkpoint = load_checkpoint(small_checkpoint)
    size = checkpoint.config.size
    frames = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), np.uint8)
    frames = (frames * np.linspace(0.05, 1, 40)[:, None, None, None]).astype(np.uint8)
    many = dataclasses.replace(
        checkpoint, reference_frames=frames, reference_labels=np.array([0] * 35 + [1] * 5, np.int8)
    )
    whole, few = reference_of(many), reference_of(many, frame_hw=(2 * size, 3 * size))
    assert len(few.frames) == 10 + 3 + 3
    scores = whole.score[:35]
    found = few.score[:10]
    assert found[0] == pytest.approx(scores.min(), abs=1e-3)
    assert found[-1] == pytest.approx(scores.max(), abs=1e-3)
    assert score_limit("fp16", few) == pytest.approx(score_limit("fp16", whole), rel=0.2)


def test_half_precision_resizes_in_fp32(small_checkpoint: Path) -> None:
    model = load_checkpoint(small_checkpoint).model
    frames = torch.from_numpy(np.stack([_frame(3)]))
    for precision in ("fp32", "fp16"):
        graph = FusedGraph(model, precision=precision, frame_hw=CAMERA_HW)
        planes = graph.resize(frames)
        assert planes.dtype == torch.float32
        assert torch.equal(planes, planes.round())


def test_bad_sizes(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frame size 0x640 came; wanted height and width of the camera's"):
        ExportConfig(frame_hw=(0, 640))
    arguments = ["export", str(small_checkpoint), "--out", str(tmp_path / "m.onnx"), "--frame-size", "1080p"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "the size '1080p' came; wanted HEIGHTxWIDTH in pixels, as 1080x1920" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_commands_know_it(
    exported: ExportResult,
    small_checkpoint: Path,
    small_line: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = CliRunner().invoke(main, ["inspect", str(exported.model)]).stdout
    assert "note: The graph resizes frames of 1080x1920 itself, which is meant for a GPU. On a CPU" in printed
    fields = json.loads(CliRunner().invoke(main, ["inspect", str(exported.model), "--json"]).stdout)
    assert fields["frame_hw"] == [1080, 1920]
    assert len(fields["notes"]) == 1

    # The drift is measured on the data set's images, brought to the frame size.
    monkeypatch.setattr(auroc_drift, "_IMAGES", 4)
    out = tmp_path / "own.onnx"
    arguments = ["export", str(small_checkpoint), "--out", str(out), "--frame-size", "64X64", "--json"]
    result = CliRunner().invoke(main, [*arguments, "--data", str(small_line)])
    assert result.exit_code == 0, result.output
    parity = json.loads(result.stdout)["parity"]
    assert (parity["auroc_drift"], parity["auroc_drift_reason"]) == (0, None)
    assert json.loads(CliRunner().invoke(main, ["inspect", str(out), "--json"]).stdout)["frame_hw"] == [
        64,
        64,
    ]
    with Detector(out, threads=1) as detector, pytest.raises(FrameError, match="takes frames of 64x64 only"):
        detector(np.zeros((65, 64, 3), np.uint8))
