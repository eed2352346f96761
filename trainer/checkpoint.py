"""The checkpoint: one file with weights, configuration and everything the exporter needs."""

from __future__ import annotations

import dataclasses
import datetime
import platform
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge import __version__
from cada_edge.errors import CheckpointError, MissingExtraError
from cada_edge.files import atomic_path
from cada_edge.manifest import Calibration
from cada_edge.trainer.aligner import build_aligner
from cada_edge.trainer.config import TrainConfig, from_dict
from cada_edge.trainer.model import TrainedModel, build_model

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_tensors",
    "package_versions",
    "save_checkpoint",
    "save_tensors",
]

_FORMAT = "cada-edge-checkpoint"
_VERSION = 1

_CONTENT = (
    "config",
    "base",
    "regressor",
    "range_floor",
    "encoder_fingerprint",
    "class_table",
    "threshold",
    "calibration",
    "data_fingerprint",
    "reference_frames",
    "reference_labels",
    "created_at",
    "versions",
)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with where it came from."""

    model: TrainedModel
    """In eval mode, on the CPU."""
    config: TrainConfig
    """What it was trained with."""
    encoder_fingerprint: str
    """SHA-256 of the encoder's weights (`cada_edge.trainer.encoders.build_encoder`), or 'random'; 'timm' in
    files of earlier versions, for a download."""
    class_table: dict[str, tuple[float, float]]
    """Category -> (u_c, g_c), for the class-aware reference only; empty where folders name no categories."""
    threshold: float | None
    """Of the aligned score; None until calibrated."""
    calibration: Calibration | None
    """How the threshold came about."""
    data_fingerprint: str
    """SHA-256 over the training images."""
    reference_frames: NDArray[np.uint8]
    """Frames for the parity check at export, uint8 (N, S, S, 3), BGR."""
    reference_labels: NDArray[np.int8]
    """0 normal, 1 anomalous, (N,)."""
    created_at: str = ""
    """UTC, ISO 8601."""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of Python and the packages."""


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of Python, cada-edge and the named packages, as far as they are installed."""
    found = {"python": platform.python_version(), "cada-edge": __version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values atomically.

    Raises:
        OutputError: The disk does not take it; an older file stays as it was.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's zip writer reports a full disk as a RuntimeError.
            raise OSError(f"{error}") from error


def load_tensors(path: Path, *, kind: str) -> dict[str, Any]:
    """Read such a dictionary; only tensors and plain values are let in.

    Args:
        path: The file.
        kind: What the file should be, for the message.

    Raises:
        CheckpointError: Missing, damaged, or holding anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no {kind} at {path}. Check the path; 'cada-edge train' writes one.")
    try:
        # torch's own reader leaves the checksums of the archive alone.
        with zipfile.ZipFile(path) as archive:
            spoiled = archive.testzip()
        if spoiled is not None:
            raise ValueError(f"the checksum of {spoiled} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broad: on a damaged file the unpickler trips over anything
        raise CheckpointError(
            f"The {kind} {path} ({path.stat().st_size} bytes) cannot be read: "
            f"it is damaged, truncated or no {kind} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
            "Copy it again or train again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; wanted a {kind} of cada-edge.")
    return content


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        OutputError: The disk does not take it.
    """
    model = checkpoint.model
    save_tensors(
        path,
        {
            "format": _FORMAT,
            "version": _VERSION,
            "config": checkpoint.config.to_dict(),
            "base": model.base.state_dict(),
            "regressor": None if model.regressor is None else model.regressor.state_dict(),
            "range_floor": model.floor,
            "encoder_fingerprint": checkpoint.encoder_fingerprint,
            "class_table": {name: list(pair) for name, pair in checkpoint.class_table.items()},
            "threshold": checkpoint.threshold,
            "calibration": None
            if checkpoint.calibration is None
            else dataclasses.asdict(checkpoint.calibration),
            "data_fingerprint": checkpoint.data_fingerprint,
            "reference_frames": torch.from_numpy(checkpoint.reference_frames),
            "reference_labels": torch.from_numpy(checkpoint.reference_labels),
            "created_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": package_versions("torch", "torchvision", "timm", "numpy", "opencv-python-headless"),
        },
    )


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint and build its model.

    Args:
        path: The file that training wrote.

    Returns:
        The checkpoint, its model in eval mode on the CPU.

    Raises:
        CheckpointError: Missing, damaged, of a newer version, or no checkpoint.
    """
    path = Path(path)
    content = load_tensors(path, kind="checkpoint")
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no cada-edge checkpoint (format {content.get('format')!r}, wanted {_FORMAT!r}). "
            "Pass the checkpoint.pt of a run folder."
        )
    version = content.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(
            f"{path} has the version {version!r}; wanted a whole number from 1. "
            "It is damaged: copy it again or train again."
        )
    if version > _VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {version}; this cada-edge reads up to {_VERSION}. "
            "Upgrade it with: pip install --upgrade cada-edge"
        )
    missing = [name for name in _CONTENT if name not in content]
    if missing:
        raise CheckpointError(
            f"The checkpoint {path} lacks {', '.join(missing)}; wanted what 'cada-edge train' writes. "
            "Copy it again or train again."
        )
    try:
        return _build(content)
    except MissingExtraError:
        raise
    except Exception as error:  # broad: plain values of any type may stand anywhere in the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The values in the checkpoint {path} make no model ({reason}); "
            "wanted weights that fit its configuration. Copy it again or train again."
        ) from error


def _build(content: dict[str, Any]) -> Checkpoint:
    config = from_dict(content["config"])
    table = {name: (float(u), float(g)) for name, (u, g) in content["class_table"].items()}
    model, _ = build_model(config, encoder_weights="random")
    model.base.load_state_dict(content["base"])
    if content["regressor"] is not None:
        model.regressor = build_aligner(
            config.alignment, model.base.bottleneck_channels, config.aligner, table
        )
        model.regressor.load_state_dict(content["regressor"])
    model.floor = float(content["range_floor"])
    frames, labels = content["reference_frames"], content["reference_labels"]
    if frames.dtype != torch.uint8 or tuple(frames.shape) != (len(labels), config.size, config.size, 3):
        raise ValueError(f"reference frames {tuple(frames.shape)} of {frames.dtype}")
    calibration, threshold = content["calibration"], content["threshold"]
    return Checkpoint(
        model=model.eval(),
        config=config,
        encoder_fingerprint=content["encoder_fingerprint"],
        class_table=table,
        threshold=None if threshold is None else float(threshold),
        calibration=None if calibration is None else Calibration(**calibration),
        data_fingerprint=content["data_fingerprint"],
        reference_frames=frames.numpy(),
        reference_labels=labels.numpy(),
        created_at=content["created_at"],
        versions=content["versions"],
    )
