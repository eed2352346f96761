"""Class-agnostic distribution alignment (paper section 3.3): predict what normal pixels of a part score.

The regressor takes the base's bottleneck feature and predicts (u^, g^), the mean and maximum of the
unsmoothed anomaly map of normal images of the part's kind. Its convolution is 1x1 by default: the paper gives
no size, and on wide_resnet50_2 a 3x3 would be 37.7 M weights against the paper's "little computation
overhead".

`cada-sigma` trains the same regressor on u + 3 sigma in the maximum's place; `class-predicted` (CaDA-B) puts
a classifier of the same body before a table of the categories' statistics.

The base is frozen, in eval mode and sees no augmentation here, so each training image's feature and targets
are constants: `cada_edge.trainer.feature_cache` keeps them from one pass for `train_regressor`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.errors import TrainingError
from cada_edge.trainer.config import AlignerConfig
from cada_edge.trainer.sampling import batch_indices, seeded

__all__ = [
    "ClassPredictor",
    "Regressor",
    "Statistics",
    "build_aligner",
    "class_statistics",
    "guarded",
    "range_floor",
    "regression_loss",
    "sigma_maximum",
    "train_classifier",
    "train_regressor",
]

_SEED_STREAM = 2
"""Keeps the aligner's random numbers apart from the base's."""


class Regressor(nn.Module):
    """Convolutions, BatchNorm, ReLU, global mean, then linear layers with dropout before each (Table 3)."""

    def __init__(self, channels: int, config: AlignerConfig, outputs: int = 2) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        for _ in range(config.convolutions):
            convolutions += [
                nn.Conv2d(channels, channels, config.kernel, 1, config.kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*convolutions)
        linears: list[nn.Module] = []
        width = channels
        for _ in range(config.linears - 1):
            linears += [nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.ReLU()]
            width = config.hidden
        self.linears = nn.Sequential(*linears, nn.Dropout(config.dropout), nn.Linear(width, outputs))

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Predict (u^, g^).

        Args:
            bottleneck: (N, C, h, w).

        Returns:
            float32 (N, 2).
        """
        # From the mean on in fp32, also where the convolutions compute in half: scores depend on these two.
        pooled = self.convolutions(bottleneck).float().mean((2, 3))  # (N, C, h, w) -> (N, C)
        predicted: Tensor = self.linears(pooled)
        return predicted.float()


class ClassPredictor(nn.Module):
    """Predict an image's category and give that category's (u_c, g_c): CaDA-B of paper section 3.2."""

    table: Tensor

    def __init__(self, channels: int, config: AlignerConfig, table: dict[str, tuple[float, float]]) -> None:
        """Build an untrained classifier.

        Args:
            channels: Of the tapped feature.
            config: Of the body, which is the regressor's.
            table: Category -> (u_c, g_c); logits are in the order of the sorted names.
        """
        super().__init__()
        self.categories = tuple(sorted(table))
        self.classifier = Regressor(channels, config, outputs=len(table))
        rows = [table[name] for name in self.categories]
        self.register_buffer("table", torch.tensor(rows, dtype=torch.float32), persistent=False)

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Look (u^, g^) up, float32 (N, 2), for features (N, C, h, w)."""
        chosen: Tensor = self.table[self.classifier(bottleneck).argmax(1)]
        return chosen


def build_aligner(
    alignment: str, channels: int, config: AlignerConfig, table: dict[str, tuple[float, float]]
) -> Regressor | ClassPredictor:
    """Build the untrained aligner of a variant.

    Args:
        alignment: 'cada', 'cada-sigma' or 'class-predicted'.
        channels: Of the tapped feature.
        config: Of the body.
        table: Category -> (u_c, g_c), for 'class-predicted'.
    """
    if alignment == "class-predicted":
        return ClassPredictor(channels, config, table)
    return Regressor(channels, config)


@dataclass(frozen=True)
class Statistics:
    """What the aligner learns from, one row per training image."""

    features: Tensor
    """Bottleneck features, float32 (N, C, h, w), on the CPU."""
    mean: Tensor
    """u_img: mean of each unsmoothed map, float32 (N,)."""
    maximum: Tensor
    """g_img: maximum of each unsmoothed map, float32 (N,)."""
    deviation: Tensor
    """Population standard deviation of each unsmoothed map's pixels, float32 (N,)."""


def sigma_maximum(statistics: Statistics) -> Statistics:
    """Put u_img + 3 standard deviations in the maximum's place: the targets of 'cada-sigma' (Table 5).

    A maximum is set by the one most anomalous pixel; with anomalies among the training images the deviation
    moves less.
    """
    return dataclasses.replace(statistics, maximum=statistics.mean + 3 * statistics.deviation)


def range_floor(statistics: Statistics) -> float:
    """Return the smallest range the alignment divides by: half the 1 % quantile of g_img - u_img.

    On frames unlike any training image the regressor extrapolates; with a tiny epsilon scores would explode.
    """
    spread = (statistics.maximum - statistics.mean).double()
    return max(float(spread.quantile(0.01)) / 2, 1e-6)


def guarded(mean: Tensor, maximum: Tensor, floor: float) -> Tensor:
    """Return the range max(g^ - u^, floor), float32 (N,)."""
    return (maximum - mean).clamp_min(floor)


def class_statistics(
    statistics: Statistics, categories: Sequence[str], *, sigma: bool = False
) -> dict[str, tuple[float, float]]:
    """Compute (u_c, g_c) per category, the class-aware reference (CaDA-A, paper section 3.2).

    Args:
        statistics: One row per training image.
        categories: Category of each row.
        sigma: Take u_c + 3 standard deviations over all pixels of the category for g_c.

    Returns:
        Category -> mean of all its pixels, and mean over its images of their maximum.
    """
    table = {}
    for name in sorted(set(categories)):
        rows = torch.tensor([category == name for category in categories])
        means, maxima = statistics.mean[rows].double(), statistics.maximum[rows].double()
        mean, maximum = float(means.mean()), float(maxima.mean())
        if sigma:
            # All images have as many pixels: variance within the images plus variance of their means.
            variance = statistics.deviation[rows].double().square().mean() + means.var(correction=0)
            maximum = mean + 3 * float(variance.sqrt())
        table[name] = (mean, maximum)
    return table


def regression_loss(predicted: Tensor, mean: Tensor, maximum: Tensor, *, beta: float) -> Tensor:
    """Compute Eq. 3: the *sum* of the smooth L1 losses (Eq. 4) of u^ and g^, each a mean over the batch.

    Args:
        predicted: (N, 2), u^ and g^.
        mean: u_img (N,).
        maximum: g_img (N,).
        beta: alpha of Eq. 4.
    """
    return F.smooth_l1_loss(predicted[:, 0], mean, beta=beta) + F.smooth_l1_loss(
        predicted[:, 1], maximum, beta=beta
    )


def train_regressor(
    regressor: Regressor,
    images: int,
    fetch: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    config: AlignerConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Train the regressor with SGD (paper section 4.2); batches are the same for the same seed.

    Args:
        regressor: Trained in place, left in eval mode.
        images: Number of training images, at least 2.
        fetch: Gives feature (B, C, h, w), u_img (B,) and g_img (B,) for image numbers int64 (B,); from a
            cache, or by running the base.
        config: Optimiser and iterations.
        seed: Of the sampling and the dropout.
        device: Where to train.
        progress: Called with iteration and loss.

    Returns:
        The last loss.

    Raises:
        TrainingError: One image alone, or a loss that is not finite.
    """

    def loss(rows: Tensor) -> Tensor:
        feature, mean, maximum = (tensor.to(device) for tensor in fetch(rows))
        return regression_loss(regressor(feature), mean, maximum, beta=config.beta)

    return _train(regressor, images, loss, config, seed=seed, device=device, progress=progress)


def train_classifier(
    predictor: ClassPredictor,
    features: Tensor,
    categories: Sequence[str],
    config: AlignerConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Train a class predictor with cross entropy, as `train_regressor` trains (CaDA-B, paper section 3.2).

    Args:
        predictor: Trained in place, left in eval mode.
        features: Tapped features, float32 (N, C, h, w), N at least 2.
        categories: Category of each.
        config: Optimiser and iterations.
        seed: Of the sampling and the dropout.
        device: Where to train.
        progress: Called with iteration and loss.

    Returns:
        The last loss.

    Raises:
        TrainingError: One image alone, or a loss that is not finite.
    """
    labels = torch.tensor([predictor.categories.index(name) for name in categories])

    def loss(rows: Tensor) -> Tensor:
        logits = predictor.classifier(features[rows].to(device))
        return F.cross_entropy(logits, labels[rows].to(device))

    return _train(predictor, len(features), loss, config, seed=seed, device=device, progress=progress)


def _train(
    module: nn.Module,
    images: int,
    loss_of: Callable[[Tensor], Tensor],
    config: AlignerConfig,
    *,
    seed: int,
    device: torch.device | str,
    progress: Callable[[int, float], None] | None,
) -> float:
    if images < 2:
        raise TrainingError(
            f"The aligner got {images} training image(s); wanted at least 2, better 16 of every kind. "
            "Add normal images."
        )
    module.to(device).train()
    optimizer = torch.optim.SGD(
        module.parameters(),
        config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    value = float("nan")
    for iteration in range(config.iterations):
        rows = batch_indices(images, config.batch_size, iteration, seed=seed, stream=_SEED_STREAM)
        with seeded(seed, _SEED_STREAM, iteration):
            loss = loss_of(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if iteration % 25 == 0 or iteration == config.iterations - 1:
            value = float(loss.detach())
            if not value < float("inf"):
                raise TrainingError(
                    f"The aligner's loss became {value} at iteration {iteration}. "
                    "Lower aligner.learning_rate, or check that the base's scores are finite."
                )
            if progress is not None:
                progress(iteration + 1, value)
    module.eval()
    return value
