from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import CheckFailedError, ModelError, ModelMismatchError, OutputError
from cada_edge.files import sha256_file
from cada_edge.manifest import Manifest, Parity, manifest_path
from cada_edge.runtime.backend import Outputs
from cada_edge.runtime.parity import Reference, read_reference, replay, score_limit, verify, write_reference


def _reference(path: Path) -> Reference:
    return read_reference(path.with_name("tiny.reference.npz"))


def _answers(reference: Reference, shift: float = 0.0) -> Callable[[np.ndarray], Outputs]:
    def infer(frames: np.ndarray) -> Outputs:
        rows = [int(np.flatnonzero((reference.frames == frame).all((1, 2, 3)))[0]) for frame in frames]
        maps = reference.anomaly_map[rows].astype(np.float32)
        return Outputs(reference.score[rows] + np.float32(shift), maps, reference.stats[rows])

    return infer


def test_verify_writes_the_figures_into_the_manifest(tiny_model: Path) -> None:
    parity = verify(tiny_model)
    assert parity.images == 5
    assert parity.max_score_difference < 1e-6
    assert parity.score_limit == 1e-4
    assert Manifest.read(tiny_model).parity == parity


def test_differences_are_relative_above_one(tiny_model: Path) -> None:
    reference = _reference(tiny_model)
    assert (
        replay(_answers(reference, 9e-5), reference, precision="fp32", backend="x").max_score_difference
        < 1e-4
    )
    with pytest.raises(
        CheckFailedError, match=r"differs from PyTorch's by 0.00011.*limit for fp32 is 0.0001"
    ):
        replay(_answers(reference, 1.1e-4), reference, precision="fp32", backend="x")
    large = Reference(
        reference.frames, reference.score * 100, reference.stats, reference.anomaly_map, reference.label
    )
    replay(_answers(large, 4e-3), large, precision="fp32", backend="x")


def test_limits_of_half_precision_follow_the_spread_of_normal_frames(tiny_model: Path) -> None:
    reference = Reference(
        np.zeros((22, 1, 1, 3), np.uint8),
        np.concatenate([np.linspace(0, 2, 21), [50]]).astype(np.float32),
        np.zeros((22, 2), np.float32),
        np.zeros((22, 1, 1), np.float16),
        np.array([0] * 21 + [1], np.int8),
    )
    # p5 and p95 of 0, 0.1 .. 2 are 0.1 and 1.9.
    assert score_limit("fp16", reference) == pytest.approx(2e-3 * 1.8)
    assert score_limit("int8", reference) == pytest.approx(2e-2 * 1.8)
    assert score_limit("fp32", reference) == 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(tiny_model: Path, value: float) -> None:
    reference = _reference(tiny_model)

    def infer(frames: np.ndarray) -> Outputs:
        outputs = _answers(reference)(frames)
        outputs.anomaly_map[0, 0, 0] = value
        return outputs

    with pytest.raises(CheckFailedError, match="not finite on the reference frames 0 to"):
        replay(infer, reference, precision="fp32", backend="x")


def test_verify_fails_on_another_models_reference_and_keeps_the_manifest(tiny_model: Path) -> None:
    reference = _reference(tiny_model)
    path = tiny_model.with_name("tiny.reference.npz")
    shifted = Reference(
        reference.frames, reference.score + 1, reference.stats, reference.anomaly_map, reference.label
    )
    write_reference(path, shifted)
    with pytest.raises(ModelMismatchError, match="is not the one that the manifest describes"):
        verify(tiny_model)
    manifest = json.loads(manifest_path(tiny_model).read_text())
    manifest["reference_sha256"] = sha256_file(path)
    text = json.dumps(manifest)
    manifest_path(tiny_model).write_text(text)
    with pytest.raises(CheckFailedError, match="Parity failed"):
        verify(tiny_model)
    assert manifest_path(tiny_model).read_text() == text


def test_missing_and_damaged_reference_files(
    tiny_model: Path, tmp_path: Path, write_tiny_model: Callable[..., Path]
) -> None:
    path = tiny_model.with_name("tiny.reference.npz")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelMismatchError, match="is not the one that the manifest describes"):
        verify(tiny_model)
    with pytest.raises(ModelMismatchError, match=r"reference file .* cannot be read"):
        read_reference(path)
    path.unlink()
    with pytest.raises(ModelMismatchError, match="cannot be read"):
        verify(tiny_model)
    with pytest.raises(ModelError, match="names no reference file"):
        verify(write_tiny_model(tmp_path / "m.onnx", reference_file=None))


def test_stats_and_maps_are_held_against_the_reference_too(tiny_model: Path) -> None:
    reference = _reference(tiny_model)
    sound = _answers(reference)

    def wrong_stats(frames: np.ndarray) -> Outputs:
        outputs = sound(frames)
        return outputs._replace(stats=outputs.stats + np.float32(0.001))

    def flipped_maps(frames: np.ndarray) -> Outputs:
        outputs = sound(frames)
        return outputs._replace(anomaly_map=outputs.anomaly_map[:, ::-1].copy())

    with pytest.raises(CheckFailedError, match=r"stats differs from PyTorch's by 0.001"):
        replay(wrong_stats, reference, precision="fp32", backend="x")
    with pytest.raises(CheckFailedError, match=r"anomaly_map differs from PyTorch's by"):
        replay(flipped_maps, reference, precision="fp32", backend="x")


def test_verify_keeps_a_calibration_that_came_in_between(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cada_edge.runtime import parity as module

    def calibrated_meanwhile(*arguments: Any, **options: Any) -> Parity:
        result = replay(*arguments, **options)
        dataclasses.replace(Manifest.read(tiny_model), threshold=0.875).write(tiny_model)
        return result

    monkeypatch.setattr(module, "replay", calibrated_meanwhile)
    verify(tiny_model)
    assert Manifest.read(tiny_model).threshold == 0.875

    def exported_meanwhile(*arguments: Any, **options: Any) -> Parity:
        result = replay(*arguments, **options)
        dataclasses.replace(Manifest.read(tiny_model), model_sha256="1" * 64).write(tiny_model)
        return result

    monkeypatch.setattr(module, "replay", exported_meanwhile)
    with pytest.raises(ModelMismatchError, match="exported anew while it was being measured"):
        verify(tiny_model)


def test_verify_on_a_read_only_box_gives_the_figures_and_a_warning(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Manifest, path: Path) -> Path:
        raise OutputError("Cannot write: Read-only file system.")

    # Tests may run as root, whom no permission stops: the refusal is injected.
    monkeypatch.setattr(Manifest, "write", refuse)
    assert verify(tiny_model).max_score_difference < 1e-6
    assert "Parity holds, but the manifest keeps its old figures" in caplog.text


def test_flipped_bytes_of_the_reference_file_are_seen(tiny_model: Path) -> None:
    path = tiny_model.with_name("tiny.reference.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ModelMismatchError, match="is not the one that the manifest describes"):
        verify(tiny_model)


@pytest.mark.parametrize(("hw", "most"), [((1, 1), 8), ((1080, 1920), 2), ((3000, 4000), 1)])
def test_large_frames_are_replayed_a_few_at_a_time(hw: tuple[int, int], most: int) -> None:
    # Broadcast views: one pixel of memory, however large the frames are.
    frames = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (9, *hw, 3))
    zeros = np.zeros(9, np.float32)
    reference = Reference(
        frames, zeros, np.zeros((9, 2), np.float32), np.zeros((9, 1, 1), np.float16), np.zeros(9, np.int8)
    )
    seen: list[int] = []

    def infer(batch: np.ndarray) -> Outputs:
        seen.append(len(batch))
        count = len(batch)
        return Outputs(
            np.zeros(count, np.float32), np.zeros((count, 1, 1), np.float32), np.zeros((count, 2), np.float32)
        )

    replay(infer, reference, precision="fp32", backend="x")
    assert (max(seen), sum(seen)) == (most, 9)
