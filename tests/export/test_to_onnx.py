from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cada_edge import Detector
from cada_edge.errors import CheckFailedError, CheckpointError, ConfigError, OutputError
from cada_edge.export import to_onnx
from cada_edge.export.graph import FusedGraph
from cada_edge.export.reference import reference_of
from cada_edge.export.to_onnx import ExportConfig, ExportResult, export_onnx
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.datasets import index_dataset
from cada_edge.runtime.images import read_image
from cada_edge.runtime.parity import read_reference, verify
from cada_edge.runtime.preprocess import preprocess
from cada_edge.trainer.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export_onnx(small_checkpoint, tmp_path_factory.mktemp("export") / "model.onnx")


def test_three_files_and_a_manifest_that_fits(exported: ExportResult, small_checkpoint: Path) -> None:
    names = sorted(path.name for path in exported.model.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.json", "model.reference.npz"]
    manifest = Manifest.read(exported.model)
    manifest.check_model_file(exported.model)
    checkpoint = load_checkpoint(small_checkpoint)
    assert manifest.threshold == checkpoint.threshold
    assert manifest.calibration == checkpoint.calibration
    encoder = checkpoint.model.base.encoder
    assert (manifest.mean, manifest.std) == (encoder.mean, encoder.std)
    assert manifest.range_floor == checkpoint.model.floor
    assert manifest.input_hw == (64, 64)
    assert manifest.parity == exported.parity
    assert exported.parity.max_score_difference <= 1e-4
    assert exported.parity.auroc_drift is None
    assert exported.parity.auroc_drift_reason is not None


def test_the_graph_takes_uint8_and_has_no_batch_normalisation(exported: ExportResult) -> None:
    model = onnx.load(exported.model)
    (frames,) = model.graph.input
    assert frames.name == "frames"
    assert frames.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in model.graph.output] == ["score", "anomaly_map", "stats"]
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert "Dropout" not in kinds
    first = next(node for node in model.graph.node if "frames" in node.input)
    assert first.op_type == "Cast"  # TensorRT takes no other reader of uint8
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_equals_pytorch(
    exported: ExportResult, small_checkpoint: Path, backend: str, batch: int
) -> None:
    model = load_checkpoint(small_checkpoint).model
    frames = np.random.default_rng(batch).integers(0, 256, (batch, 64, 64, 3), np.uint8)
    with torch.inference_mode():
        score, maps, stats = (output.numpy() for output in model(torch.from_numpy(frames)))
    engine = choose_backend(exported.model, backend)
    engine.open()
    outputs = engine.infer(frames)
    engine.close()
    np.testing.assert_allclose(outputs.score, score, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(outputs.anomaly_map, maps, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(outputs.stats, stats, atol=1e-4)


def test_the_deployed_score_is_the_evaluated_score(
    exported: ExportResult, small_checkpoint: Path, small_line: Path
) -> None:
    """The whole way of a file on disk: Detector against PyTorch on the same bytes."""
    model = load_checkpoint(small_checkpoint).model
    with Detector(exported.model) as detector:
        for sample in index_dataset(small_line).test:
            frame = read_image(sample.image)
            with torch.inference_mode():
                score, _, stats = model(torch.from_numpy(preprocess(frame, (64, 64)))[None])
            detection = detector(frame)
            assert detection.score == pytest.approx(score.item(), abs=1e-4)
            mean, maximum = stats[0].tolist()
            assert detection.raw_score == pytest.approx(score.item() * (maximum - mean) + mean, abs=1e-4)


def test_reference_file_holds_real_frames_and_extremes(exported: ExportResult) -> None:
    reference = read_reference(exported.reference)
    assert sorted(set(reference.label.tolist())) == [-1, 0, 1]
    black, white, noise = reference.frames[-3:]
    assert (black.max(), white.min(), int(noise.max()) - int(noise.min())) == (0, 255, 255)
    assert len(reference.frames) <= 64


def test_verify_replays_it(exported: ExportResult) -> None:
    for backend in ("onnxruntime", "openvino"):
        parity = verify(exported.model, backend=backend)
        assert parity.backend.startswith(backend)
        assert parity.max_score_difference <= 1e-4
        assert Manifest.read(exported.model).parity == parity


def test_fp16_stays_within_its_limit_or_writes_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    result = export_onnx(small_checkpoint, out, ExportConfig(precision="fp16", backend="onnxruntime"))
    assert Manifest.read(out).precision == "fp16"
    assert result.parity.max_score_difference <= result.parity.score_limit
    weights = {tensor.data_type for tensor in onnx.load(out).graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in weights


def test_over_the_limit_nothing_is_written_and_an_older_export_stays(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    export_onnx(small_checkpoint, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Spoiled(FusedGraph):
        """A graph whose scores are a little off, as a broken conversion's would be."""

        def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            score, aligned, stats = super().forward(frames)
            return score * 1.001 + 0.001, aligned, stats

    monkeypatch.setattr(to_onnx, "FusedGraph", Spoiled)
    with pytest.raises(CheckFailedError, match="Parity failed"):
        export_onnx(small_checkpoint, out)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(CheckFailedError):
        export_onnx(small_checkpoint, tmp_path / "new" / "model.onnx")
    assert list((tmp_path / "new").iterdir()) == []


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("limit", [5_000, 1_000_000])
def test_a_full_disk_leaves_the_older_export_whole(
    small_checkpoint: Path,
    tmp_path: Path,
    limit: int,
    small_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    out = tmp_path / "model.onnx"
    for name in ("model.onnx", "model.onnx.json", "model.reference.npz"):
        (tmp_path / name).write_text(f"an older {name}")
    before = _content(tmp_path)
    with (
        small_disk(limit),
        pytest.raises(OutputError, match=r"Cannot write .*model.onnx.*: .+ Free some space"),
    ):
        export_onnx(small_checkpoint, out)
    assert _content(tmp_path) == before


def test_a_manifest_that_cannot_be_written_leaves_the_older_export_whole(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    for name in ("model.onnx", "model.onnx.json", "model.reference.npz"):
        (tmp_path / name).write_text(f"an older {name}")
    before = _content(tmp_path)

    def refuse(manifest: Manifest, model_path: str | Path) -> Path:
        raise OutputError("Cannot write the manifest: No space left on device.")

    monkeypatch.setattr(Manifest, "write", refuse)
    with pytest.raises(OutputError, match="Cannot write the manifest"):
        export_onnx(small_checkpoint, out)
    assert _content(tmp_path) == before


@pytest.mark.parametrize("taken", ["model.onnx", "model.onnx.json", "model.reference.npz"])
def test_a_folder_in_the_way_is_refused_at_once(small_checkpoint: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(OutputError, match=f"{taken} is a folder; wanted a place for a file. Pass another"):
        export_onnx(small_checkpoint, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_model_with_nan_is_refused(small_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(small_checkpoint)
    broken = copy.deepcopy(checkpoint.model)
    next(iter(broken.base.parameter_groups()[0]["params"])).data[:] = float("nan")
    import dataclasses

    with pytest.raises(CheckFailedError, match="PyTorch model itself gives values that are not finite"):
        reference_of(dataclasses.replace(checkpoint, model=broken))


def test_alignment_none_has_neutral_statistics(small_line: Path, tmp_path: Path) -> None:
    from cada_edge.trainer.config import TrainConfig
    from cada_edge.trainer.fit import fit

    config = TrainConfig(
        encoder="resnet18",
        encoder_weights="random",
        size=64,
        iterations=2,
        batch_size=4,
        alignment="none",
        device="cpu",
    )
    run = fit(index_dataset(small_line), tmp_path / "run", config)
    result = export_onnx(run.checkpoint, tmp_path / "plain.onnx")
    with Detector(result.model) as detector:
        detection = detector(np.full((64, 64, 3), 99, np.uint8))
    assert detection.raw_score == pytest.approx(detection.score, abs=1e-6)
    assert not detection.alignment_clamped


def test_bad_input(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output model.bin came; wanted a name ending in .onnx"):
        export_onnx(small_checkpoint, tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="precision 'int3' came"):
        ExportConfig(precision="int3")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        export_onnx(tmp_path / "none.pt", tmp_path / "model.onnx")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(small_checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cut.pt \(1000 bytes\) cannot be read"):
        export_onnx(cut, tmp_path / "model.onnx")
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="is no cada-edge checkpoint"):
        export_onnx(other, tmp_path / "model.onnx")
    torch.save({**torch.load(small_checkpoint, weights_only=True), "version": 99}, other)
    with pytest.raises(CheckpointError, match="checkpoint of version 99"):
        export_onnx(other, tmp_path / "model.onnx")
    (tmp_path / "file").write_text("taken")
    with pytest.raises(OutputError, match="or choose another folder with --out"):
        export_onnx(small_checkpoint, tmp_path / "file" / "model.onnx")
