"""The second stage of training: the aligner, on cached features of the finished base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.errors import DatasetError
from cada_edge.trainer.aligner import (
    ClassPredictor,
    Regressor,
    Statistics,
    build_aligner,
    class_statistics,
    range_floor,
    sigma_maximum,
    train_classifier,
    train_regressor,
)
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.data import batches
from cada_edge.trainer.feature_cache import FeatureCache
from cada_edge.trainer.model import TrainedModel

__all__ = ["check_categories", "collect_statistics", "fit_aligner"]

_log = logging.getLogger(__name__)

_SCORING_BATCH = 32

_SCALE_IMAGES = 64
"""Enough to tell the scales of maps apart, and little beside the pass over all images."""

_SCALES_APART = 20
"""How many times larger or smaller than the mean g_img beta may be without a warning."""


def collect_statistics(
    model: TrainedModel,
    frames: NDArray[np.uint8],
    *,
    cache: FeatureCache,
    device: torch.device,
    report: Callable[[str, int, int, float], None],
) -> Statistics:
    """Return what any aligner learns from: from the cache, else by one pass of the base that fills it.

    Args:
        model: With the trained base on the device, in eval mode.
        frames: uint8 (N, S, S, 3), BGR: the base's training images.
        cache: Of the tapped features of this base and these images.
        device: Where to run.
        report: Called with the stage's name, what is done, how many there are, and the loss.

    Raises:
        OutputError: The disk does not take the cache.
    """
    statistics = cache.load()
    if statistics is None:
        report("statistics", 0, len(frames), float("nan"))
        statistics = cache.fill(model.raw_batches(batches(frames, _SCORING_BATCH, device)), len(frames))
        report("statistics", len(frames), len(frames), float("nan"))
        _log_scales(model, frames, device)
    return statistics


def fit_aligner(
    model: TrainedModel,
    statistics: Statistics,
    categories: Sequence[str],
    config: TrainConfig,
    *,
    device: torch.device,
    report: Callable[[str, int, int, float], None],
) -> dict[str, tuple[float, float]]:
    """Train the configured aligner into the model, and compute the categories' statistics.

    Args:
        model: With the trained base, in eval mode; given its regressor and range floor.
        statistics: One row per training image of the base.
        categories: Of the images; 'class-predicted' learns them, the others do not see them.
        config: The run's configuration.
        device: Where to run.
        report: Called with the stage's name, what is done, how many there are, and the loss.

    Returns:
        Category -> (u_c, g_c), the class-aware reference.

    Raises:
        DatasetError: 'class-predicted' on images whose folders name no categories.
        TrainingError: One image alone, or a loss that is not finite.
    """
    check_categories(config, categories)
    sigma = config.alignment == "cada-sigma"
    table = class_statistics(statistics, categories, sigma=sigma)
    if sigma:
        statistics = sigma_maximum(statistics)
    model.floor = range_floor(statistics)
    _log.info(
        "mean u_img %.4g and mean g_img %.4g over %d training images",
        float(statistics.mean.mean()),
        float(statistics.maximum.mean()),
        len(categories),
    )
    if config.alignment != "none":
        torch.manual_seed(config.seed)
        model.regressor = _trained(model, statistics, categories, table, config, device, report)
    return table


def check_categories(config: TrainConfig, categories: Sequence[str]) -> None:
    """Refuse 'class-predicted' where there is nothing to tell apart.

    Args:
        config: The run's configuration.
        categories: Of the training images.

    Raises:
        DatasetError: All images are of one category, or the folders name none.
    """
    if config.alignment == "class-predicted" and len(set(categories)) < 2:
        raise DatasetError(
            "alignment 'class-predicted' came with images of a single category; wanted at least two to tell "
            "apart, each in a folder of its own. Train with --alignment cada, which needs none."
        )


def _trained(
    model: TrainedModel,
    statistics: Statistics,
    categories: Sequence[str],
    table: dict[str, tuple[float, float]],
    config: TrainConfig,
    device: torch.device,
    report: Callable[[str, int, int, float], None],
) -> Regressor | ClassPredictor:
    def progress(done: int, loss: float) -> None:
        report("aligner", done, config.aligner.iterations, loss)

    aligner = build_aligner(config.alignment, model.base.bottleneck_channels, config.aligner, table)
    if isinstance(aligner, ClassPredictor):
        train_classifier(
            aligner,
            statistics.features,
            categories,
            config.aligner,
            seed=config.seed,
            device=device,
            progress=progress,
        )
        return aligner
    _warn_of_scale(config.aligner.beta, float(statistics.maximum.mean()))
    train_regressor(
        aligner,
        len(statistics.mean),
        lambda rows: (statistics.features[rows], statistics.mean[rows], statistics.maximum[rows]),
        config.aligner,
        seed=config.seed,
        device=device,
        progress=progress,
    )
    return aligner


def _log_scales(model: TrainedModel, frames: NDArray[np.uint8], device: torch.device) -> None:
    """Print the map's scale under each definition that the base method knows, on some of the images."""
    some = frames[:: -(-len(frames) // _SCALE_IMAGES)]
    for name, (mean, maximum) in model.map_scales(batches(some, _SCORING_BATCH, device)).items():
        _log.info(
            "distance %s: mean u_img %.4g and mean g_img %.4g over %d training images",
            name,
            mean,
            maximum,
            len(some),
        )


def _warn_of_scale(beta: float, maximum: float) -> None:
    """Say when beta does not fit the maps' scale, by which the paper chooses it (section 4.2).

    Far above it the loss is all square and far below all linear, whatever the error.
    """
    if not maximum / _SCALES_APART <= beta <= maximum * _SCALES_APART:
        _log.warning(
            "aligner.beta %.4g came, but g_img of the training images is %.4g on average; wanted a beta from "
            "%.4g to %.4g. Set aligner.beta in the configuration file (--config) to about %.2g.",
            beta,
            maximum,
            maximum / _SCALES_APART,
            maximum * _SCALES_APART,
            maximum,
        )
