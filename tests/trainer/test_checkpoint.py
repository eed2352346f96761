from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cada_edge.errors import CheckpointError
from cada_edge.trainer.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.model import build_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained model."""
    config = TrainConfig(encoder="mobilenetv3_small_050", encoder_weights="random", size=64, alignment="none")
    model, fingerprint = build_model(config, encoder_weights="random")
    path = tmp_path_factory.mktemp("saved") / "checkpoint.pt"
    save_checkpoint(
        path,
        Checkpoint(
            model=model,
            config=config,
            encoder_fingerprint=fingerprint,
            class_table={"nut": (0.1, 0.4)},
            threshold=0.5,
            calibration=None,
            data_fingerprint="0" * 64,
            reference_frames=np.zeros((2, 64, 64, 3), np.uint8),
            reference_labels=np.zeros(2, np.int8),
        ),
    )
    return path


def test_what_is_saved_comes_back(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.class_table == {"nut": (0.1, 0.4)}
    assert (checkpoint.threshold, checkpoint.model.floor, checkpoint.calibration) == (0.5, 1.0, None)
    assert checkpoint.reference_frames.shape == (2, 64, 64, 3)
    assert checkpoint.created_at


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x80\x02.", b"PK\x03\x04", b"no tensors here", bytes(1000), b"\xff" * 1000]
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"other.pt \({len(content)} bytes\) cannot be read: it is dam"
    ):
        load_tensors(path, kind="checkpoint")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999, 0.9999999])
def test_truncated_checkpoints_are_refused(saved: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pt"
    whole = saved.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"cut.pt \(\d+ bytes\) cannot be read: .* Copy it again"):
        load_checkpoint(path)


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    weights = torch.arange(6.0)
    save_tensors(path, {"format": "any", "rows": [1, 2.5, None], "weights": weights})
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 8)):
            damaged[at] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            loaded = load_tensors(path, kind="training state")
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(loaded.pop("weights"), weights)
            assert loaded == {"format": "any", "rows": [1, 2.5, None]}
    assert refused > 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1"}, "has the version '1'; wanted a whole number from 1. It is damaged: copy it again"),
        ({"version": None}, "has the version None"),
        ({"version": 99}, "checkpoint of version 99; this cada-edge reads up to 1. Upgrade it"),
        ({"config": None}, "make no model .* Copy it again or train again"),
        ({"config": {"encoder": "resnet19"}}, "make no model .*resnet19.* is not known"),
        ({"base": []}, "make no model"),
        ({"base": {}}, r"make no model .*Missing|make no model .*RevDist"),
        ({"regressor": 3}, "make no model"),
        ({"range_floor": None}, "make no model"),
        ({"class_table": {"nut": [1.0]}}, "make no model"),
        ({"threshold": "high"}, "make no model .*could not convert string to float"),
        ({"calibration": {"images": 3}}, "make no model .*missing"),
        ({"reference_frames": None}, "make no model"),
        (
            {"reference_frames": torch.zeros(2, 3)},
            r"make no model \(reference frames \(2, 3\) of torch.float32",
        ),
    ],
)
def test_values_that_make_no_model_are_refused(
    saved: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "other.pt"
    save_tensors(path, {**torch.load(saved, weights_only=True), **changes})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_missing_parts_are_named(saved: Path, tmp_path: Path) -> None:
    content = torch.load(saved, weights_only=True)
    for name in ("calibration", "versions"):
        del content[name]
    save_tensors(tmp_path / "part.pt", content)
    with pytest.raises(
        CheckpointError, match=r"part.pt lacks calibration, versions; wanted .* Copy it again"
    ):
        load_checkpoint(tmp_path / "part.pt")


def test_every_field_is_saved(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    kept = {item.name for item in dataclasses.fields(Checkpoint)} - {"model"}
    assert kept <= content.keys()
