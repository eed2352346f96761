"""UniAD (NeurIPS 2022; paper sections 3.1, 4.2): a transformer rebuilds a frozen encoder's features.

The encoder's maps are brought to one grid, where each position is a token. In training the tokens are
jittered, and the attention hides each token's neighbours (`cada_edge.trainer.uniad_transformer`): both keep
the transformer from copying what it is given. Where the paper is silent, details follow UniAD's public code.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.errors import ConfigError
from cada_edge.trainer.base_method import BaseMethod, Sourced, check_option
from cada_edge.trainer.encoders import Encoder
from cada_edge.trainer.scoring import upsampling_matrix
from cada_edge.trainer.uniad_transformer import Projection, Transformer

__all__ = [
    "DISTANCES",
    "Neck",
    "UniAD",
    "UniADOptions",
    "feature_distance",
    "jittered",
    "visible_neighbourhood",
]

_log = logging.getLogger(__name__)

DISTANCES = ("mse", "l2")
"""Definitions of the distance map: the mean over channels of the squared error, or its L2 norm."""

_HEADS = 8
_DROPOUT = 0.1

_SOURCE = "UniAD's public code"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class UniADOptions:
    """What UniAD lets one choose."""

    distance: str = "mse"
    """One of `DISTANCES`: 'mse' (the CADA author's code) or 'l2' (UniAD's own map)."""
    tap: str = "transformer"
    """Where the aligner listens: 'transformer' (its encoder's tokens) or 'neck' (what is rebuilt)."""
    jitter_scale: float = 20.0
    """Deviation of the noise in training, in units of a token's L2 norm over its number of channels."""
    jitter_probability: float = 1.0
    """Of noise in an iteration, 0-1."""
    layers: int = 4
    """Of the transformer's encoder, and of its decoder."""
    width: int = 256
    """Channels inside the transformer, a multiple of 8; its feed-forward networks have four times as many."""
    neighbourhood: int = 7
    """Side of the square of tokens that a token hides, odd; 0 hides none. Grids of this side or less hide a
    smaller one (`visible_neighbourhood`)."""

    def __post_init__(self) -> None:
        check_option("distance", self.distance, DISTANCES)
        check_option("tap", self.tap, ("transformer", "neck"))
        numbers = {
            "jitter_scale": (
                _is_number(self.jitter_scale) and self.jitter_scale >= 0,
                "a number from 0",
            ),
            "jitter_probability": (
                _is_number(self.jitter_probability) and 0 <= self.jitter_probability <= 1,
                "a number from 0 to 1",
            ),
            "layers": (
                _is_whole(self.layers) and self.layers > 0,
                "a whole number from 1",
            ),
            "width": (
                _is_whole(self.width) and self.width > 0 and self.width % _HEADS == 0,
                f"a multiple of {_HEADS}, the number of heads",
            ),
            "neighbourhood": (
                _is_whole(self.neighbourhood)
                and (self.neighbourhood == 0 or (self.neighbourhood > 0 and self.neighbourhood % 2 == 1)),
                "an odd number of tokens, or 0 to hide none",
            ),
        }
        for name, (fits, wanted) in numbers.items():
            if not fits:
                raise ConfigError(
                    f"base option {name} {getattr(self, name)!r} came; wanted {wanted}. "
                    f"Pass --base-option {name}={getattr(UniADOptions, name)}."
                )


def feature_distance(target: Tensor, rebuilt: Tensor, kind: str) -> Tensor:
    """Measure how far features are from their reconstruction at every position.

    Args:
        target: (N, C, h, w).
        rebuilt: The same shape.
        kind: One of `DISTANCES`.

    Returns:
        float32 (N, h, w), from 0.
    """
    squared = (target.float() - rebuilt.float()).square()
    distance: Tensor = squared.mean(1) if kind == "mse" else squared.sum(1).sqrt()
    return distance


def jittered(tokens: Tensor, scale: float, *, probability: float = 1.0) -> Tensor:
    """Add Gaussian noise, in proportion to each token's own size, from torch's global generator.

    Args:
        tokens: (N, L, C).
        scale: The noise has the standard deviation scale * L2 norm of the token / C.
        probability: Of noise, in all tokens of the call together.

    Returns:
        float32 (N, L, C).
    """
    deviation = tokens.float().square().sum(2, keepdim=True).sqrt() * (scale / tokens.shape[2])
    noise = torch.randn_like(tokens, dtype=torch.float32) * deviation
    # As a factor: a branch on it would wait for the device in every iteration, and split a compiled graph.
    happens = torch.rand((), device=tokens.device) < probability
    return tokens + noise * happens


def visible_neighbourhood(neighbourhood: int, side: int) -> int:
    """Return the largest neighbourhood, up to the wanted one, that hides no whole grid from a token.

    Args:
        neighbourhood: Wanted side of the hidden square, in tokens.
        side: Of the grid, in tokens, at least 2.

    Example:
        >>> visible_neighbourhood(7, 14), visible_neighbourhood(7, 8), visible_neighbourhood(7, 4)
        (7, 7, 3)
    """
    # A square of the grid's side around a token in the middle would be the whole grid.
    return min(neighbourhood, (side // 2) * 2 - 1)


class Neck(nn.Module):
    """Bring feature maps to the coarsest one's grid and put their channels together.

    Bilinear interpolation with aligned corners and without antialiasing, as in UniAD's public code: along
    each axis a product with a constant matrix of two entries a row, which every engine computes alike.
    """

    def __init__(self, sides: Sequence[int]) -> None:
        """Prepare the matrices.

        Args:
            sides: Positions a side of each map, finest first.
        """
        super().__init__()
        self.sides = tuple(sides)
        for index, side in enumerate(self.sides[:-1]):
            matrix = upsampling_matrix(side, self.sides[-1]).float()
            self.register_buffer(f"resize_{index}", matrix, persistent=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Resize and concatenate maps (N, C_k, h_k, h_k) to (N, sum of C_k, h, h)."""
        resized = []
        for index, feature in enumerate(features[:-1]):
            matrix = getattr(self, f"resize_{index}")
            # (h, h_k) @ (N, C_k, h_k, h_k) @ (h_k, h) -> (N, C_k, h, h)
            resized.append(torch.matmul(torch.matmul(matrix, feature.to(matrix.dtype)), matrix.t()))
        return torch.cat([*resized, features[-1].to(resized[0].dtype)], 1)


class UniAD(BaseMethod):
    """Features rebuilt by a neighbour-masked transformer with learned queries."""

    Options = UniADOptions
    STRIDES = (2, 4, 8, 16)
    DEFINITIONS = DISTANCES
    RECIPE: ClassVar[Mapping[str, Sourced]] = {
        "encoder": Sourced(
            "tf_efficientnet_b4.aa_in1k",
            f"paper section 4.2: EfficientNet-B4; AutoAugment weights: {_SOURCE}",
        ),
        "size": Sourced(224, "paper section 4.2"),
        "iterations": Sourced(50_000, "paper section 4.2"),
        "batch_size": Sourced(64, "paper section 4.2"),
        "learning_rate": Sourced(3e-4, "paper section 4.2"),
        "weight_decay": Sourced(1e-4, "paper section 4.2"),
        "gradient_clip": Sourced(0.1, _SOURCE),
        "aligner.iterations": Sourced(20_000, "paper section 4.2"),
        "aligner.beta": Sourced(10.0, "paper section 4.2"),
    }

    def __init__(self, encoder: Encoder, options: UniADOptions, *, size: int) -> None:
        """Build neck and transformer, with initial weights from torch's global generator.

        Args:
            encoder: With maps at strides 2, 4, 8 and 16.
            options: Distance, tap, jitter and the transformer's size.
            size: Side of the input, in pixels, a multiple of 32.
        """
        super().__init__(encoder, options, size=size)
        self.encoder = encoder
        self.options = options
        self.side = size // self.STRIDES[-1]
        channels = sum(encoder.channels)
        neighbourhood = visible_neighbourhood(options.neighbourhood, self.side)
        if neighbourhood != options.neighbourhood:
            _log.warning(
                "base option neighbourhood %d came, but the grid of a %d-pixel input has %d tokens a side, "
                "all of which it would hide; %d is used. Pass --size %d or more to have it as it is.",
                options.neighbourhood,
                size,
                self.side,
                neighbourhood,
                # The next multiple of 32 whose grid is larger than the neighbourhood.
                32 * (options.neighbourhood // 2 + 1),
            )
        self.neck = Neck([size // stride for stride in self.STRIDES])
        self.transformer = Transformer(
            channels,
            self.side,
            width=options.width,
            heads=_HEADS,
            layers=options.layers,
            neighbourhood=neighbourhood,
            dropout=_DROPOUT,
        )
        self.bottleneck_channels = options.width if options.tap == "transformer" else channels

    def map_grid(self, size: int) -> list[tuple[int, float]]:
        """Place the one map as the coarsest feature map, whose grid is the neck's.

        Aligned corners spread the finer maps over the grid a little wider than that, by less than a position.
        """
        return [(size // self.STRIDES[-1], self.encoder.offsets[-1])]

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the neck's feature, (N, C, S / 16, S / 16), of float (N, 3, S, S) normalised images."""
        return (self.neck(self.encoder(images)),)

    def _rebuild(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rebuilt feature (N, C, h, h) and the transformer encoder's tokens (N, width, h, h)."""
        tokens = feature.flatten(2).transpose(1, 2)  # (N, C, h, h) -> (N, L, C)
        if self.training:
            options = self.options
            tokens = jittered(tokens, options.jitter_scale, probability=options.jitter_probability)
        rebuilt, memory = self.transformer(tokens)
        grid = (self.side, self.side)
        # (N, L, C) -> (N, C, h, h), twice
        return rebuilt.transpose(1, 2).unflatten(2, grid), memory.transpose(1, 2).unflatten(2, grid)

    def loss_on(self, encoded: Sequence[Tensor], *, progress: float = 0.0) -> Tensor:
        """Compute the mean squared error against the features without jitter; `progress` changes nothing."""
        rebuilt, _ = self._rebuild(encoded[0])
        return F.mse_loss(rebuilt.float(), encoded[0].float())

    def maps_on(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute the distance map and the tapped feature.

        Returns:
            One map, float32 (N, S / 16, S / 16), from 0 without a limit; and the transformer encoder's tokens
            (N, width, S / 16, S / 16) or the neck's feature (N, C, S / 16, S / 16).
        """
        rebuilt, memory = self._rebuild(encoded[0])
        distance = feature_distance(encoded[0], rebuilt, self.options.distance)
        return [distance], memory if self.options.tap == "transformer" else encoded[0]

    def half_parts(self) -> list[nn.Module]:
        """Return the encoder and the transformer's projections, but not those whose tokens the aligner taps.

        A mean squared error forgives none of what a cosine does, and the rounding of a weight is the same at
        every position, so that no mean takes it away. Scores are divided by a difference of two predictions
        from the tapped tokens: measured on a model with a range of 5 % of u^, the roundings of the
        transformer's encoder alone were twice the parity limit.
        """
        transformer = self.transformer
        halved = [transformer.decoder, transformer.output]
        if self.options.tap != "transformer":
            halved += [transformer.input, transformer.encoder]
        projections = (item for part in halved for item in part.modules() if isinstance(item, Projection))
        return [self.encoder, *projections]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the transformer as one group."""
        return [{"params": list(self.transformer.parameters())}]

    def definitions_on(self, encoded: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Compute the distance map under each of `DISTANCES`, float32 (N, S / 16, S / 16)."""
        rebuilt, _ = self._rebuild(encoded[0])
        return {kind: [feature_distance(encoded[0], rebuilt, kind)] for kind in DISTANCES}
