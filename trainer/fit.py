"""A whole training run: base method, aligner, threshold, one checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cada_edge.errors import ConfigError, MissingExtraError
from cada_edge.files import sha256_file
from cada_edge.manifest import Calibration
from cada_edge.runtime.conformal import conformal_threshold, to_calibration
from cada_edge.runtime.datasets import (
    DatasetIndex,
    Sample,
    check_images,
    fingerprint,
    require_training_images,
)
from cada_edge.runtime.holdout import split_holdout
from cada_edge.trainer.align import check_categories, collect_statistics, fit_aligner
from cada_edge.trainer.base_step import check_compile
from cada_edge.trainer.checkpoint import Checkpoint, package_versions, save_checkpoint
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.data import batches, decode, decode_shared
from cada_edge.trainer.feature_cache import FeatureCache
from cada_edge.trainer.fit_base import fit_base
from cada_edge.trainer.model import TrainedModel, build_model, exact_fp32
from cada_edge.trainer.processes import Place, Processes, check_batch_size, join, launched_place
from cada_edge.trainer.run_folder import (
    CHECKPOINT,
    LOG,
    STATE,
    TENSORBOARD,
    claim_run_folder,
    discard_results,
)
from cada_edge.trainer.run_log import RunLog

__all__ = ["TrainResult", "calibrate_on", "choose_device", "fit", "score_frames", "split_images"]

_log = logging.getLogger(__name__)

_REFERENCE_FRAMES = 61
"""With black, white and noise the reference file holds 64."""

_SCORING_BATCH = 32


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind."""

    checkpoint: Path
    """The checkpoint file."""
    training_images: int
    """Images that base and aligner were trained on."""
    held_out_images: int
    """Normal images kept for the threshold."""
    threshold: float | None
    """Of the aligned score; None without held-out images."""
    warning: str | None
    """What the threshold cannot promise, if anything."""


def choose_device(name: str, place: Place | None = None) -> torch.device:
    """Turn a device name into a device.

    Args:
        name: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        place: Of this process; None for the only one. Of several, each gets a GPU of its own.

    Raises:
        ConfigError: The name is unknown, or there is no such device; never a silent fall to the CPU.
    """
    place = place or Place()
    own = f"cuda:{place.local_rank}" if place.count > 1 else "cuda"
    if name == "auto":
        name = own if torch.cuda.is_available() else "cpu"
        _log.info("training on %s", name)
    try:
        device = torch.device(own if name == "cuda" else name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} came; wanted auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} came; wanted auto, cpu, cuda or cuda:N.")
    if place.count > 1 and str(device) not in ("cpu", own):
        raise ConfigError(
            f"device {name!r} came with {place.count} processes; wanted a GPU for each of them. "
            "Pass --device cuda, which gives them out, and choose GPUs with CUDA_VISIBLE_DEVICES."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {str(device)!r} came, but torch {torch.__version__} "
            f"sees {torch.cuda.device_count()} CUDA device(s). "
            "Pass --device cpu, or check the driver with nvidia-smi"
            + (" and start no more processes on a machine than it has GPUs." if place.count > 1 else ".")
        )
    return device


def fit(
    index: DatasetIndex,
    run: str | Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    keep_features: bool = False,
    tensorboard: bool = False,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> TrainResult:
    """Train on all normal images mixed, align, and set the threshold on images held out from both.

    Started by torchrun, the processes train the base together; the first one then does the rest alone, and
    alone writes the run folder and calls `progress`. All return the same.

    Category names never reach base, regressor or threshold; they are kept for reports and for the class-aware
    reference only.

    Args:
        index: The data set.
        run: Folder of the run, for one run at a time; made when missing.
        config: Everything else.
        resume: Go on from the run folder's state, when there is one.
        overwrite: Start again where an earlier run left its files; they are removed when training begins.
        keep_features: Keep the aligner's cached features in the run folder.
        tensorboard: Write TensorBoard's scalars into the run folder too.
        progress: Called with the stage's name, what is done, how many there are, and the loss.

    Returns:
        Where the checkpoint is and what the threshold is worth.

    Raises:
        ConfigError: No such device, both resume and overwrite, or a batch that the processes cannot share.
        MissingExtraError: TensorBoard is not installed.
        DatasetError: No, or too few, normal training images, or unreadable ones.
        CheckpointError: The state to resume from does not fit.
        OutputError: The run folder cannot be written, is in use, or holds an earlier run's files.
        TrainingError: The loss is not finite or has diverged, or another process failed.
    """
    run = Path(run)
    place = launched_place()
    check_batch_size(config.batch_size, place)
    check_compile(config, place)
    if tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError("TensorBoard logging", "tensorboard", "tensorboard")
    device = choose_device(config.device, place)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    report = progress or (lambda stage, done, total, loss: None)
    require_training_images(index)
    with join(place, device) as processes:
        if not place.leads:
            return _follow(index, run, config, device, processes, resume)
        with claim_run_folder(run, resume=resume, overwrite=overwrite):
            result = _fit(index, run, config, device, processes, resume, keep_features, tensorboard, report)
        processes.tell("result", {**dataclasses.asdict(result), "checkpoint": str(result.checkpoint)})
        return result


def _follow(
    index: DatasetIndex,
    run: Path,
    config: TrainConfig,
    device: torch.device,
    processes: Processes,
    resume: bool,
) -> TrainResult:
    """Train the base with the leading process, and wait for what it makes of it."""
    training, _ = split_images(index, config)
    with _spill(run / f"decoded.{processes.place.machine}.npy", processes) as spill:
        frames = decode_shared(
            training, config.size, resize_name=config.resize, spill=spill, processes=processes
        )
        model, _ = build_model(config, encoder_weights=config.encoder_weights)
        processes.hear("ready")
        fit_base(
            model,
            frames,
            config,
            state_path=run / STATE,
            data_fingerprint="",
            device=device,
            resume=resume,
            names=[sample.relative for sample in training],
            processes=processes,
        )
    told = processes.hear("result")
    return TrainResult(**{**told, "checkpoint": Path(told["checkpoint"])})


def split_images(index: DatasetIndex, config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Split the normal images into those to train on and those held out for the threshold.

    Args:
        index: The data set.
        config: Its recipe, share and seed say which; 'paper' holds none out.
    """
    fraction = 0.0 if config.recipe == "paper" else config.holdout_fraction
    training, held_out = split_holdout(index.train, fraction=fraction, seed=config.seed)
    return list(training), list(held_out)


def _fit(
    index: DatasetIndex,
    run: Path,
    config: TrainConfig,
    device: torch.device,
    processes: Processes,
    resume: bool,
    keep_features: bool,
    tensorboard: bool,
    report: Callable[[str, int, int, float], None],
) -> TrainResult:
    # A damaged test image among them must not end the run after hours of training.
    anomalous = _reference_samples(index)
    check_images((*index.train, *anomalous))
    training, held_out = split_images(index, config)
    categories = [sample.category for sample in training]
    check_categories(config, categories)
    data_fingerprint = fingerprint(training)
    checkpoint = run / CHECKPOINT
    with _spill(run / f"decoded.{processes.place.machine}.npy", processes) as spill:
        frames = decode_shared(
            training, config.size, resize_name=config.resize, spill=spill, processes=processes
        )
        model, encoder_fingerprint = build_model(config, encoder_weights=config.encoder_weights)
        if not resume:
            discard_results(run)
        header = {
            "config": config.to_dict(),
            "versions": package_versions("torch", "torchvision", "timm", "numpy"),
            "encoder_sha256": encoder_fingerprint,
            "data_fingerprint": data_fingerprint,
            "training_images": len(training),
            "held_out_images": len(held_out),
            "device": _describe(device, processes),
        }
        folder = run / TENSORBOARD if tensorboard else None
        with RunLog(run / LOG, header, every=config.log_every, tensorboard=folder) as log:
            processes.tell("ready", True)
            fit_base(
                model,
                frames,
                config,
                state_path=run / STATE,
                data_fingerprint=data_fingerprint,
                device=device,
                resume=resume,
                names=[sample.relative for sample in training],
                processes=processes,
                log=log,
                progress=lambda done, loss: report("base", done, config.iterations, loss),
            )
            cache = FeatureCache(run, sha256_file(run / STATE))
            both = _logged(report, log, config)
            statistics = collect_statistics(model, frames, cache=cache, device=device, report=both)
            table = fit_aligner(model, statistics, categories, config, device=device, report=both)
            del statistics
            if not keep_features:
                cache.delete()
            held_frames = decode(held_out, config.size, resize_name=config.resize)
            threshold, calibration, warning = calibrate_on(model, held_frames, held_out, config, device)
            reference_frames, reference_labels = _reference(
                held_frames if len(held_out) >= 8 else frames,
                decode(anomalous, config.size, resize_name=config.resize),
            )
            save_checkpoint(
                checkpoint,
                Checkpoint(
                    model=model.cpu().eval(),
                    config=config,
                    encoder_fingerprint=encoder_fingerprint,
                    class_table=table,
                    threshold=threshold,
                    calibration=calibration,
                    data_fingerprint=data_fingerprint,
                    reference_frames=reference_frames,
                    reference_labels=reference_labels,
                ),
            )
            log.finish(checkpoint=CHECKPOINT, threshold=threshold)
    return TrainResult(checkpoint, len(training), len(held_out), threshold, warning)


def _describe(device: torch.device, processes: Processes) -> dict[str, Any]:
    """Say what a run is trained on, for its log."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"type": device.type, "name": name, "processes": processes.place.count}


def _logged(
    report: Callable[[str, int, int, float], None], log: RunLog, config: TrainConfig
) -> Callable[[str, int, int, float], None]:
    """Report the aligner's stages to the log as well."""

    def both(stage: str, done: int, total: int, loss: float) -> None:
        if stage == "aligner":
            rate, images = config.aligner.learning_rate, config.aligner.batch_size
            log.step(stage, done, total, loss, learning_rate=rate, images=images)
        else:
            log.rest()
        report(stage, done, total, loss)

    return both


def score_frames(model: TrainedModel, frames: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """Score frames with the model's own alignment, in full fp32 as the exported file does.

    Args:
        model: On the device, in eval mode.
        frames: uint8 (N, S, S, 3), BGR.
        device: The model's.

    Returns:
        float32 (N,).
    """
    scores: list[Tensor] = []
    with torch.inference_mode(), exact_fp32():
        for batch in batches(frames, _SCORING_BATCH, device):
            scores.append(model(batch)[0].cpu())
    return torch.cat(scores).numpy() if scores else np.empty(0, np.float32)


def calibrate_on(
    model: TrainedModel,
    frames: NDArray[np.uint8],
    samples: Sequence[Sample],
    config: TrainConfig,
    device: torch.device,
) -> tuple[float | None, Calibration | None, str | None]:
    """Set the threshold on images held out from training.

    Args:
        model: Moved to the device.
        frames: uint8 (N, S, S, 3), BGR; N may be 0.
        samples: What they are of.
        config: The run's configuration.
        device: Where to score.

    Returns:
        Threshold, how it came about, and what it cannot promise; without images None, None and what to do.
    """
    if not samples:
        return (
            None,
            None,
            "no images were held out: set the threshold with 'cada-edge calibrate' on unseen normal images",
        )
    result = conformal_threshold(
        score_frames(model.to(device).eval(), frames, device), false_alarm_rate=config.false_alarm_rate
    )
    if result.warning:
        _log.warning("%s", result.warning)
    calibration = to_calibration(
        result, source="held out from training", data_fingerprint=fingerprint(samples)
    )
    return result.threshold, calibration, result.warning


def _reference_samples(index: DatasetIndex) -> tuple[Sample, ...]:
    """Choose the anomalous images of the reference file, evenly; their masks are of no use there."""
    anomalous = [sample for sample in index.test if sample.anomalous]
    rows = _evenly(len(anomalous), _REFERENCE_FRAMES // 2)
    return tuple(dataclasses.replace(anomalous[row], mask=None) for row in rows)


def _reference(
    normal: NDArray[np.uint8], anomalous: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Put up to 61 real frames together: normal ones, evenly, and the anomalous ones."""
    normal = normal[_evenly(len(normal), _REFERENCE_FRAMES - len(anomalous))]
    labels = np.repeat(np.array([0, 1], np.int8), [len(normal), len(anomalous)])
    return np.concatenate([normal, anomalous]), labels


def _evenly(total: int, wanted: int) -> list[int]:
    count = min(total, wanted)
    return [int(position * total / count) for position in range(count)]


@contextmanager
def _spill(path: Path, processes: Processes) -> Iterator[Path]:
    """Name the file of the decoded images, and remove it at the end where this process made it."""
    try:
        yield path
    finally:
        if processes.place.local_rank == 0:
            path.unlink(missing_ok=True)
