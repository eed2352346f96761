"""Reverse distillation (RD4AD, CVPR 2022; paper section 3.1): a decoder rebuilds a frozen encoder's features.

Widths follow the encoder: for wide_resnet50_2 this is RD4AD's own architecture, with GELU in the decoder
(paper section 4.2). Small encoders get the basic residual block, as RD4AD's ResNet-18 does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.trainer.base_method import BaseMethod, Sourced, check_option
from cada_edge.trainer.encoders import Encoder

__all__ = [
    "RECIPE",
    "Decoder",
    "OneClassBottleneck",
    "RevDist",
    "RevDistOptions",
    "cosine_distance",
    "flattened_cosine_loss",
    "initialise",
]

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

    def __init__(self, channels: tuple[int, ...]) -> None:
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

    def __init__(self, channels: tuple[int, ...], *, activation: str = "gelu") -> None:
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


RECIPE: Mapping[str, Sourced] = {
    "encoder": Sourced(
        "wide_resnet50_2.tv_in1k", "paper section 4.2: WideResNet50; ImageNet V1: RD4AD's code"
    ),
    "size": Sourced(256, "paper section 4.2"),
    "iterations": Sourced(5_000, "paper section 4.2"),
    "batch_size": Sourced(16, "paper section 4.2"),
    "learning_rate": Sourced(2e-3, "paper section 4.2"),
    "weight_decay": Sourced(1e-5, "paper section 4.2"),
    "aligner.iterations": Sourced(5_000, "paper section 4.2"),
    "aligner.beta": Sourced(0.1, "paper section 4.2"),
}
"""RevDist's values of the paper; ReContrast shares them."""


def initialise(*parts: nn.Module) -> None:
    """Draw the weights of all convolutions that halve or keep the resolution as RD4AD does (He, fan out)."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class RevDistOptions:
    """What RevDist lets one choose."""

    activation: str = "gelu"
    """Of the decoder: 'gelu' (paper section 4.2) or 'relu' (RD4AD's own)."""
    tap: str = "bottleneck"
    """Where the aligner listens: 'bottleneck' (section 3.2, Fig. 4) or 'encoder', its stride-16 map
    (section 3.3 names the pre-trained encoder)."""

    def __post_init__(self) -> None:
        check_option("activation", self.activation, _ACTIVATIONS)
        check_option("tap", self.tap, ("bottleneck", "encoder"))


class RevDist(BaseMethod):
    """Reverse distillation with a frozen encoder."""

    Options = RevDistOptions
    RECIPE: ClassVar[Mapping[str, Sourced]] = RECIPE

    def __init__(self, encoder: Encoder, options: RevDistOptions, *, size: int) -> None:
        """Build bottleneck and decoder, with initial weights from torch's global generator.

        Args:
            encoder: With maps at strides 4, 8 and 16.
            options: Decoder and tap.
            size: Side of the input, in pixels; the method itself takes any.
        """
        super().__init__(encoder, options, size=size)
        self.encoder = encoder
        self.tap = options.tap
        self.bottleneck = OneClassBottleneck(encoder.channels)
        self.decoder = Decoder(encoder.channels, activation=options.activation)
        self.bottleneck_channels = encoder.channels[2] * (2 if self.tap == "bottleneck" else 1)
        initialise(self.bottleneck, self.decoder)

    def loss_on(self, encoded: Sequence[Tensor], *, progress: float = 0.0) -> Tensor:
        """Compute the flattened cosine loss; `progress` changes nothing here."""
        return flattened_cosine_loss(encoded, self.decoder(self.bottleneck(encoded)))

    def maps_on(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute distance maps and the tapped feature.

        Returns:
            Three maps, float32 (N, S / stride, S / stride) for strides 4, 8, 16, each in [0, 2], and the
            bottleneck (N, 2 * C_3, S / 32, S / 32) or the encoder's last map (N, C_3, S / 16, S / 16).
        """
        bottleneck = self.bottleneck(encoded)
        rebuilt = self.decoder(bottleneck)
        maps = [cosine_distance(a, b) for a, b in zip(encoded, rebuilt, strict=True)]
        return maps, bottleneck if self.tap == "bottleneck" else encoded[2]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return bottleneck and decoder as one group."""
        return [{"params": [*self.bottleneck.parameters(), *self.decoder.parameters()]}]
