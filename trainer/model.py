"""A trained model as one module: frame to aligned score, in the order that the exported graph fuses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cada_edge.errors import ConfigError, DatasetError
from cada_edge.trainer.aligner import ClassPredictor, Regressor, guarded
from cada_edge.trainer.base_method import BaseMethod, build_base, load_base
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.encoders import IMAGENET_MEAN, IMAGENET_STD, build_encoder
from cada_edge.trainer.scoring import MapScorer

__all__ = ["Normalize", "TrainedModel", "build_model", "exact_fp32"]


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute in full fp32: no TF32 and no autocast, so that what is calibrated is what ships.

    cuDNN's convolutions use TF32, with 10 bits of mantissa, unless told otherwise. The old settings come back
    at the end.
    """
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution


class Normalize(nn.Module):
    """Turn uint8 BGR frames into normalised RGB planes: swap and scale are one 1x1 convolution."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        """Prepare the constants.

        Args:
            mean: Of RGB in 0-1.
            std: Of RGB in 0-1, above 0.
        """
        super().__init__()
        weight = torch.zeros(3, 3, 1, 1)
        for rgb in range(3):
            weight[rgb, 2 - rgb] = 1 / (255 * std[rgb])
        bias = torch.tensor([-centre / spread for centre, spread in zip(mean, std, strict=True)])
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise.

        Args:
            frames: uint8 (N, S, S, 3), BGR.

        Returns:
            float32 (N, 3, S, S), RGB, less the mean, over the standard deviation.
        """
        # The cast comes first: TensorRT takes no transpose of uint8 (NVIDIA/TensorRT#3985).
        return self.of_planes(frames.float().permute(0, 3, 1, 2))  # (N, S, S, 3) -> (N, 3, S, S)

    def of_planes(self, planes: Tensor) -> Tensor:
        """Normalise planes of grey levels, float32 (N, 3, S, S), BGR, 0-255."""
        return nn.functional.conv2d(planes, self.weight, self.bias)


class TrainedModel(nn.Module):
    """Base method, aligner and scoring together."""

    def __init__(
        self,
        base: BaseMethod,
        regressor: Regressor | ClassPredictor | None,
        config: TrainConfig,
        *,
        floor: float,
    ) -> None:
        """Put the parts together.

        Args:
            base: The base method.
            regressor: The aligner of the configuration's alignment, or None for 'none'.
            config: Size, smoothing and top fraction.
            floor: Smallest range g^ - u^ (`cada_edge.trainer.aligner.range_floor`).
        """
        super().__init__()
        self.normalize = Normalize(base.encoder.mean, base.encoder.std)
        self.base = base
        self.regressor = regressor
        self.alignment = config.alignment
        self.floor = floor
        grid = base.map_grid(config.size)
        self.scorer = MapScorer(
            [side for side, _ in grid],
            config.size,
            smoothing=config.smoothing,
            top_fraction=config.top_fraction,
            offsets=None if config.aligns_corners else [offset for _, offset in grid],
        )

    def statistics(self, bottleneck: Tensor) -> tuple[Tensor, Tensor]:
        """Predict u^ and the guarded range, each float32 (N,); 0 and 1 without an aligner."""
        if self.regressor is None:
            zeros = bottleneck.float().mean((1, 2, 3)) * 0
            return zeros, zeros + 1
        predicted = self.regressor(bottleneck)
        mean = predicted[:, 0]
        return mean, guarded(mean, predicted[:, 1], self.floor)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score frames.

        Args:
            frames: uint8 (N, S, S, 3), BGR.

        Returns:
            score float32 (N,), anomaly_map float32 (N, S, S) aligned and smoothed, and stats float32 (N, 2):
            u^ and the guarded g^.
        """
        maps, bottleneck = self.base(self.normalize(frames))
        mean, spread = self.statistics(bottleneck)
        score, aligned = self.scorer(maps, mean, spread)
        return score, aligned, torch.stack([mean, mean + spread], 1)

    @torch.inference_mode()
    @exact_fp32()
    def score_variants(
        self,
        frames: Tensor,
        variants: Sequence[str],
        table: dict[str, tuple[float, float]],
        categories: Sequence[str],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Score one batch under several alignments with one pass of the base.

        Args:
            frames: uint8 (N, S, S, 3), BGR.
            variants: Of 'none', 'class-aware', and the alignment that the model was trained with.
            table: Category -> (u_c, g_c), for 'class-aware'.
            categories: Category of each frame, for 'class-aware'.

        Returns:
            Variant -> scores (N,) and maps (N, S, S).

        Raises:
            ConfigError: An alignment that the model was not trained with.
            DatasetError: 'class-aware' on a category that training did not see.
        """
        for variant in variants:
            if variant not in ("none", "class-aware", self.alignment):
                raise ConfigError(
                    f"alignment {variant!r} came for a model trained with {self.alignment!r}; wanted that, "
                    f"none or class-aware. Train it with --alignment {variant}."
                )
        maps, bottleneck = self.base(self.normalize(frames))
        results = {}
        for variant in variants:
            if variant == "class-aware":
                unknown = sorted(set(categories) - set(table))
                if unknown:
                    raise DatasetError(
                        f"class-aware alignment met the categories {', '.join(unknown)}, "
                        f"which training did not see (it saw {', '.join(sorted(table)) or 'none'}). "
                        "Use alignment cada, which needs no category."
                    )
                pairs = torch.tensor([table[name] for name in categories], device=frames.device)
                mean, spread = pairs[:, 0], guarded(pairs[:, 0], pairs[:, 1], self.floor)
            elif variant == "none":
                mean = torch.zeros(len(frames), device=frames.device)
                spread = mean + 1
            else:
                mean, spread = self.statistics(bottleneck)
            results[variant] = self.scorer(maps, mean, spread)
        return results

    @torch.inference_mode()
    @exact_fp32()
    def map_scales(self, batches: Iterable[Tensor]) -> dict[str, tuple[float, float]]:
        """Measure what each definition of the distance map gives, where the base method has several.

        The paper's thresholds alpha (section 4.2) belong to a scale, and it names no definition.

        Args:
            batches: uint8 (B, S, S, 3), BGR, at least one.

        Returns:
            Name -> means over the images of u_img and g_img, the unsmoothed map's mean and maximum.
        """
        if not self.base.DEFINITIONS:
            return {}
        sums = {name: torch.zeros(2, dtype=torch.float64) for name in self.base.DEFINITIONS}
        count = 0
        for frames in batches:
            encoded = self.base.encode(self.normalize(frames))
            for name, maps in self.base.definitions_on(encoded).items():
                pixels = self.scorer.raw_map(maps).flatten(1).double()
                sums[name] += torch.stack([pixels.mean(1).sum(), pixels.amax(1).sum()]).cpu()
            count += len(frames)
        return {name: (float(both[0]) / count, float(both[1]) / count) for name, both in sums.items()}

    @torch.inference_mode()
    def raw_batches(self, batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the unsmoothed map (B, S, S) and bottleneck feature of each batch of uint8 frames."""
        for frames in batches:
            with exact_fp32():
                maps, bottleneck = self.base(self.normalize(frames))
                raw = self.scorer.raw_map(maps)
            yield raw, bottleneck


def build_model(config: TrainConfig, *, encoder_weights: str | None) -> tuple[TrainedModel, str]:
    """Build an untrained model from its configuration, with initial weights that follow from the seed.

    Args:
        config: The run's configuration.
        encoder_weights: As for `build_encoder`.

    Returns:
        The model without regressor, and the fingerprint of the encoder's weights.
    """
    torch.manual_seed(config.seed)
    encoder, fingerprint = build_encoder(
        config.encoder, encoder_weights, strides=load_base(config.base).STRIDES
    )
    base = build_base(config, encoder)
    return TrainedModel(base, None, config, floor=1.0), fingerprint
