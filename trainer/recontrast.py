"""ReContrast (NeurIPS 2023; paper section 4.2): two encoders, one frozen and one trained, rebuild each other.

One bottleneck and one decoder, RevDist's own, see the features of both. What they make of the trained
encoder's features is compared with the frozen encoder's, and the other way round; the target takes no
gradient, so the trained encoder adapts to the line without that the two can agree on nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.trainer.base_method import BaseMethod, Sourced, check_option
from cada_edge.trainer.encoders import Encoder
from cada_edge.trainer.revdist import RECIPE as REVDIST_RECIPE
from cada_edge.trainer.revdist import Decoder, OneClassBottleneck, cosine_distance, initialise

__all__ = ["ReContrast", "ReContrastOptions", "hard_mining_loss", "mining_level"]

_AUTHOR = "author's public code"


@dataclass(frozen=True)
class ReContrastOptions:
    """What ReContrast lets one choose."""

    activation: str = "gelu"
    """Of the decoder: 'gelu' (paper section 4.2) or 'relu'."""
    tap: str = "frozen"
    """Where the aligner listens: the bottleneck of the 'frozen' or the 'trained' encoder's features, or
    'encoder', the frozen encoder's stride-16 map (section 3.3 names the pre-trained encoder)."""

    def __post_init__(self) -> None:
        check_option("activation", self.activation, ("gelu", "relu"))
        check_option("tap", self.tap, ("frozen", "trained", "encoder"))


def mining_level(progress: float) -> float:
    """Return alpha of the hard mining: it rises from -3 to 1 over the first tenth of the training.

    Args:
        progress: Share of the training done, 0-1.
    """
    return min(1.0, -3.0 + 4.0 * progress / 0.1)


def hard_mining_loss(targets: Sequence[Tensor], rebuilt: Sequence[Tensor], *, level: float) -> Tensor:
    """Sum over scales of 1 - cosine of the flattened C*H*W vectors, where easy positions send no gradient.

    Easy is a position whose own cosine distance is below mean + level * standard deviation of the batch's
    distances at that scale. The value is that of `cada_edge.trainer.revdist.flattened_cosine_loss`.

    Args:
        targets: Feature maps (N, C_k, H_k, W_k); they take no gradient.
        rebuilt: The same shapes.
        level: alpha, -3 to 1.

    Returns:
        A scalar.
    """
    losses = []
    for target, copied in zip(targets, rebuilt, strict=True):
        fixed, ours = target.detach().float(), copied.float()
        distance = cosine_distance(fixed, ours.detach())  # (N, C, H, W) -> (N, H, W)
        hard = distance >= distance.mean() + level * distance.std()
        # The value stays, the gradient of the easy positions goes.
        ours = torch.where(hard[:, None], ours, ours.detach())
        losses.append((1 - F.cosine_similarity(fixed.flatten(1), ours.flatten(1))).mean())
    return torch.stack(losses).sum()


class _TrainedEncoder(nn.Module):
    """A copy of the encoder that learns; its batch statistics stay those it came with."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.network = copy.deepcopy(encoder.network).requires_grad_(True)

    def train(self, mode: bool = True) -> _TrainedEncoder:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(images))


class ReContrast(BaseMethod):
    """Contrastive reconstruction between a frozen and a trained encoder."""

    Options = ReContrastOptions
    RECIPE: ClassVar[Mapping[str, Sourced]] = {
        **REVDIST_RECIPE,
        "schedule": Sourced("step", _AUTHOR),
    }
    ENCODER_RATE: ClassVar[float] = 1e-5
    """Learning rate of the trained encoder (author's public code)."""

    def __init__(self, encoder: Encoder, options: ReContrastOptions, *, size: int) -> None:
        """Copy the encoder and build bottleneck, decoder and heads.

        Args:
            encoder: With maps at strides 4, 8 and 16.
            options: Decoder and tap.
            size: Side of the input, in pixels; the method itself takes any.
        """
        super().__init__(encoder, options, size=size)
        self.encoder = encoder
        self.tap = options.tap
        self.trained = _TrainedEncoder(encoder)
        self.bottleneck = OneClassBottleneck(encoder.channels)
        self.decoder = Decoder(encoder.channels, activation=options.activation)
        self.frozen_heads = _heads(encoder.channels)
        self.trained_heads = _heads(encoder.channels)
        self.bottleneck_channels = encoder.channels[2] * (1 if self.tap == "encoder" else 2)
        initialise(self.bottleneck, self.decoder, self.frozen_heads, self.trained_heads)

    def map_grid(self, size: int) -> list[tuple[int, float]]:
        """Tell where the six maps lie: three against the frozen encoder, three against the trained."""
        return 2 * super().map_grid(size)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the images (the trained encoder's own features change) and the frozen features."""
        return (images, *self.encoder(images))

    def _rebuild(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return six targets, frozen ones first, what was rebuilt of them, and the bottleneck (2N, ...).

        In the bottleneck the trained encoder's half comes first.
        """
        images, *frozen = encoded
        trained = self.trained(images)
        both = [torch.cat(pair) for pair in zip(trained, frozen, strict=True)]
        bottleneck = self.bottleneck(both)
        decoded = self.decoder(bottleneck)
        # Slices, not chunks: torch.export fixes the batch size at a chunk.
        count = images.shape[0]
        rebuilt = [head(both[:count]) for head, both in zip(self.frozen_heads, decoded, strict=True)]
        rebuilt += [head(both[count:]) for head, both in zip(self.trained_heads, decoded, strict=True)]
        return [*frozen, *trained], rebuilt, bottleneck

    def loss_on(self, encoded: Sequence[Tensor], *, progress: float = 0.0) -> Tensor:
        """Average the hard-mining losses of the two directions."""
        targets, rebuilt, _ = self._rebuild(encoded)
        level = mining_level(progress)
        frozen = hard_mining_loss(targets[:3], rebuilt[:3], level=level)
        trained = hard_mining_loss(targets[3:], rebuilt[3:], level=level)
        return (frozen + trained) / 2

    def maps_on(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute six maps, float32 (N, S / stride, S / stride) in [0, 2], and the tapped feature."""
        targets, rebuilt, bottleneck = self._rebuild(encoded)
        maps = [cosine_distance(a, b) for a, b in zip(targets, rebuilt, strict=True)]
        if self.tap == "encoder":
            return maps, encoded[3]
        count = encoded[0].shape[0]
        return maps, bottleneck[count:] if self.tap == "frozen" else bottleneck[:count]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what starts from nothing at the run's rate, and the trained encoder at its own low one."""
        # Both settings are the author's; amsgrad keeps the steps of rarely hit weights from growing.
        shared = {"eps": 1e-10, "amsgrad": True}
        new = (self.bottleneck, self.decoder, self.frozen_heads, self.trained_heads)
        return [
            {"params": [parameter for part in new for parameter in part.parameters()], **shared},
            {"params": list(self.trained.parameters()), "lr": self.ENCODER_RATE, **shared},
        ]


def _heads(channels: tuple[int, ...]) -> nn.ModuleList:
    """Make one 1x1 convolution for each scale."""
    return nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for width in channels)
