"""Evaluate a checkpoint under one or several alignments with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.errors import ConfigError
from cada_edge.runtime.datasets import DatasetIndex, Sample
from cada_edge.runtime.evaluate import Evaluation, evaluate
from cada_edge.runtime.evaluate_model import require_test_images
from cada_edge.runtime.masks import DEFAULT_CONVENTION
from cada_edge.runtime.preprocess import RESIZES
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint
from cada_edge.trainer.config import ALIGNMENTS
from cada_edge.trainer.data import decode
from cada_edge.trainer.fit import choose_device

__all__ = ["Scored", "evaluate_checkpoint", "evaluate_scored", "score_samples"]

_BATCH = 16


@dataclass(frozen=True)
class Scored:
    """Scores and maps of images under one alignment."""

    scores: NDArray[np.float32]
    """(N,)."""
    maps: NDArray[np.float32]
    """(N, S, S)."""


def score_batches(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    variants: Sequence[str],
    device: torch.device,
    *,
    resize_name: str | None = None,
) -> Iterator[dict[str, Scored]]:
    """Score images batch by batch, in order, each with one pass of the base for all variants.

    Images are resized as in training, or by another of `cada_edge.runtime.preprocess.RESIZES`.
    """
    resize_name = resize_name or checkpoint.config.resize
    model = checkpoint.model.to(device).eval()
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        frames = torch.from_numpy(decode(part, checkpoint.config.size, resize_name=resize_name)).to(device)
        categories = [sample.category for sample in part]
        results = model.score_variants(frames, variants, checkpoint.class_table, categories)
        yield {
            name: Scored(score.cpu().numpy(), maps.cpu().numpy()) for name, (score, maps) in results.items()
        }


def score_samples(
    checkpoint: Checkpoint, samples: Sequence[Sample], variants: Sequence[str], *, device: torch.device
) -> dict[str, Scored]:
    """Score images under several alignments and keep everything; for sets that fit in memory.

    Args:
        checkpoint: The model.
        samples: The images.
        variants: Of `cada_edge.trainer.config.ALIGNMENTS`.
        device: Where to run.

    Returns:
        Variant -> scores and maps, in the samples' order.

    Raises:
        DatasetError: 'class-aware' on a category that training did not see.
    """
    parts = list(score_batches(checkpoint, samples, variants, device))
    return {
        name: Scored(
            np.concatenate([part[name].scores for part in parts]),
            np.concatenate([part[name].maps for part in parts]),
        )
        for name in variants
    }


def evaluate_scored(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    scored: Scored,
    *,
    alignment: str,
    threshold: float | None,
) -> Evaluation:
    """Compute the metrics of scores that are at hand."""
    return evaluate(
        samples,
        zip(scored.scores.tolist(), scored.maps, strict=True),
        threshold=threshold,
        map_hw=(checkpoint.config.size, checkpoint.config.size),
        protocol=_protocol(checkpoint, alignment),
    )


def evaluate_checkpoint(
    path: str | Path,
    index: DatasetIndex,
    *,
    alignment: str | None = None,
    threshold: float | None = None,
    mask_convention: str = DEFAULT_CONVENTION,
    resize_name: str | None = None,
    device: str = "auto",
    max_memory_bytes: int | None = None,
    save_maps: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a data set's test images.

    Args:
        path: The checkpoint.
        index: The data set.
        alignment: 'none', 'class-aware' or the model's own; None for its own.
        threshold: None for the checkpoint's own, which belongs to its own alignment.
        mask_convention: How ground-truth masks are resized, see `cada_edge.runtime.masks`.
        resize_name: One of `cada_edge.runtime.preprocess.RESIZES`; None for the one of its training.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        max_memory_bytes: As for `cada_edge.runtime.evaluate.evaluate`.
        save_maps: Likewise.
        progress: Likewise.

    Returns:
        The metrics, mixed and averaged, and the rates per kind.

    Raises:
        ConfigError: An unknown alignment or resize, or an alignment that the model was not trained with.
        DatasetError: No test images, or 'class-aware' on a category that training did not see.
        OutputError: The folder for maps holds something already, or a file cannot be written.
    """
    checkpoint = load_checkpoint(path)
    own = checkpoint.config.alignment
    alignment = alignment or own
    if alignment not in ALIGNMENTS:
        raise ConfigError(f"alignment {alignment!r} came; wanted one of {', '.join(ALIGNMENTS)}.")
    if alignment not in ("none", "class-aware", own):
        known = ", ".join(dict.fromkeys(("none", "class-aware", own)))
        raise ConfigError(
            f"alignment {alignment!r} came for {path}, which was trained with {own!r}; wanted one of "
            f"{known}. Train it with --alignment {alignment}."
        )
    resize_name = resize_name or checkpoint.config.resize
    if resize_name not in RESIZES:
        raise ConfigError(
            f"resize {resize_name!r} came; wanted one of {', '.join(RESIZES)}. "
            "Leave --resize out for the one that the model was trained with."
        )
    samples = require_test_images(index)
    batches = score_batches(checkpoint, samples, [alignment], choose_device(device), resize_name=resize_name)
    predictions = (
        pair
        for part in batches
        for pair in zip(part[alignment].scores.tolist(), part[alignment].maps, strict=True)
    )
    if threshold is None and alignment == own:
        threshold = checkpoint.threshold
    return evaluate(
        samples,
        predictions,
        threshold=threshold,
        map_hw=(checkpoint.config.size, checkpoint.config.size),
        mask_convention=mask_convention,
        max_memory_bytes=max_memory_bytes,
        save_maps=save_maps,
        progress=progress,
        protocol={**_protocol(checkpoint, alignment), "images": resize_name},
    )


def _protocol(checkpoint: Checkpoint, alignment: str) -> dict[str, str]:
    config = checkpoint.config
    return {
        "images": config.resize,
        "base": config.base,
        "encoder": config.encoder,
        "alignment": alignment,
        "engine": f"torch {torch.__version__}",
    }
