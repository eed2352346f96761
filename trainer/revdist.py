"""Reverse distillation (RD4AD, CVPR 2022; paper section 3.1): a decoder rebuilds a frozen encoder's features.

Widths follow the encoder: for wide_resnet50_2 this is RD4AD's own architecture, with GELU in the decoder
(paper section 4.2). Small encoders get the basic residual block, as RD4AD's ResNet-18 does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.trainer.encoders import Encoder

__all__ = ["Decoder", "OneClassBottleneck", "RevDist", "cosine_distance", "flattened_cosine_loss"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}

_BOTTLENECK_FROM = 512
"""Encoders whose stride-16 map has at least this many channels get bottleneck blocks."""


def cosine_distance(target: Tensor, rebuilt: Tensor) -> Tensor:
    """Measure 1 - cosine similarity over the channels at every position.

    Args:
        target: (N, C, H, W).
        rebuilt: The same shape.

    Returns:
        float32 (N, H, W), in [0, 2].
    """
    target, rebuilt = target.float(), rebuilt.float()
    dot = (target * rebuilt).sum(1)
    # 1e-6 on each norm, as a floor: representable in half precision's fp32 islands and far below any real
    # feature.
    norms = target.square().sum(1).sqrt().clamp_min(1e-6) * rebuilt.square().sum(1).sqrt().clamp_min(1e-6)
    return 1 - dot / norms


def flattened_cosine_loss(targets: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> Tensor:
    """Sum over scales of 1 - cosine of the flattened C*H*W vectors, each a mean over the batch.

    Args:
        targets: Feature maps (N, C_k, H_k, W_k).
        rebuilt: The same shapes.

    Returns:
        A scalar. (A loss per position is worse: hq-deng/RD4AD#22.)
    """
    losses = [
        (1 - F.cosine_similarity(a.float().flatten(1), b.float().flatten(1))).mean()
        for a, b in zip(targets, rebuilt, strict=True)
    ]
    return torch.stack(losses).sum()


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)


class _Residual(nn.Module):
    """A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1), resizing by stride 2 down or up."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int | None,
        resize: str,
        activation: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        resizing: dict[str, Callable[[int, int], nn.Module]] = {
            "none": lambda a, b: _conv(a, b, 3),
            "down": lambda a, b: _conv(a, b, 3, 2),
            "up": _up,
        }
        spatial = resizing[resize]
        layers: list[nn.Module]
        if width is None:
            layers = [spatial(inputs, outputs), nn.BatchNorm2d(outputs), activation()]
            layers += [_conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)]
        else:
            layers = [_conv(inputs, width, 1), nn.BatchNorm2d(width), activation()]
            layers += [spatial(width, width), nn.BatchNorm2d(width), activation()]
            layers += [_conv(width, outputs, 1), nn.BatchNorm2d(outputs)]
        self.main = nn.Sequential(*layers)
        self.shortcut = nn.Sequential()
        if resize != "none" or inputs != outputs:
            change: dict[str, Callable[[], nn.Module]] = {
                "none": lambda: _conv(inputs, outputs, 1),
                "down": lambda: _conv(inputs, outputs, 1, 2),
                "up": lambda: _up(inputs, outputs),
            }
            self.shortcut = nn.Sequential(change[resize](), nn.BatchNorm2d(outputs))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.main(x) + self.shortcut(x))
        return activated


def _stage(
    inputs: int,
    outputs: int,
    *,
    blocks: int,
    width: int | None,
    resize: str,
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    first = _Residual(inputs, outputs, width=width, resize=resize, activation=activation)
    rest = [
        _Residual(outputs, outputs, width=width, resize="none", activation=activation)
        for _ in range(blocks - 1)
    ]
    return nn.Sequential(first, *rest)


class OneClassBottleneck(nn.Module):
    """Fuse and squeeze the three feature maps: RD4AD's one-class embedding, without its unused parts."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        wide = coarse >= _BOTTLENECK_FROM
        self.fine = nn.Sequential(
            _conv(fine, middle, 3, 2), nn.BatchNorm2d(middle), nn.ReLU(),
            _conv(middle, coarse, 3, 2), nn.BatchNorm2d(coarse), nn.ReLU(),
        )  # fmt: skip
        self.middle = nn.Sequential(_conv(middle, coarse, 3, 2), nn.BatchNorm2d(coarse), nn.ReLU())
        self.squeeze = _stage(
            3 * coarse, 2 * coarse, blocks=3 if wide else 2, width=coarse if wide else None, resize="down",
            activation=nn.ReLU,
        )  # fmt: skip

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Squeeze features of strides 4, 8, 16 into one map of stride 32, (N, 2 * C_3, S / 32, S / 32)."""
        fine, middle, coarse = features
        fused: Tensor = self.squeeze(torch.cat([self.fine(fine), self.middle(middle), coarse], 1))
        return fused


class Decoder(nn.Module):
    """The encoder's mirror: three stages that each double the resolution."""

    def __init__(self, channels: tuple[int, int, int], *, activation: str = "gelu") -> None:
        super().__init__()
        wide = channels[2] >= _BOTTLENECK_FROM
        act = _ACTIVATIONS[activation]
        inputs = (2 * channels[2], channels[2], channels[1])
        self.stages = nn.ModuleList(
            _stage(a, b, blocks=count, width=b // 2 if wide else None, resize="up", activation=act)
            for a, b, count in zip(inputs, reversed(channels), (3, 4, 6) if wide else (2, 2, 2), strict=True)
        )

    def forward(self, bottleneck: Tensor) -> tuple[Tensor, ...]:
        """Rebuild the encoder's maps from (N, 2 * C_3, S / 32, S / 32), finest first as the encoder's."""
        rebuilt = []
        x = bottleneck
        for stage in self.stages:
            x = stage(x)
            rebuilt.append(x)
        return tuple(reversed(rebuilt))


class RevDist(nn.Module):
    """Reverse distillation with a frozen encoder."""

    def __init__(self, encoder: Encoder, *, activation: str = "gelu") -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = OneClassBottleneck(encoder.channels)
        self.decoder = Decoder(encoder.channels, activation=activation)
        self.bottleneck_channels = 2 * encoder.channels[2]
        for module in (*self.bottleneck.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute what stays constant during training: the frozen features, so that they may be cached.

        Args:
            images: float (N, 3, S, S), RGB, normalised.
        """
        with torch.no_grad():
            features: tuple[Tensor, ...] = self.encoder(images)
        return features

    def loss_on(self, encoded: Sequence[Tensor], *, progress: float = 0.0) -> Tensor:
        """Compute the training loss from `encode`'s result.

        Args:
            encoded: What `encode` gave.
            progress: Share of the training done, 0-1; unused here, other base methods anneal by it.
        """
        return flattened_cosine_loss(encoded, self.decoder(self.bottleneck(encoded)))

    def training_loss(self, images: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the training loss of a batch of normalised images (N, 3, S, S)."""
        return self.loss_on(self.encode(images), progress=progress)

    def maps_on(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute distance maps and the bottleneck feature from `encode`'s result."""
        bottleneck = self.bottleneck(encoded)
        rebuilt = self.decoder(bottleneck)
        return [cosine_distance(a, b) for a, b in zip(encoded, rebuilt, strict=True)], bottleneck

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute the distance maps of a batch.

        Args:
            images: float (N, 3, S, S), RGB, normalised.

        Returns:
            Distance maps, float32 (N, S / stride, S / stride) for strides 4, 8, 16, each in [0, 2], and the
            bottleneck feature (N, 2 * C_3, S / 32, S / 32).
        """
        return self.maps_on(self.encoder(images))

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return the trained parameters as optimiser groups."""
        return [{"params": [*self.bottleneck.parameters(), *self.decoder.parameters()]}]
