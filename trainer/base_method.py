"""What a base method is: the part of a model that turns an image into distance maps and one tapped feature.

Everything around it (data, training loop, aligner, scoring, export) knows base methods by this interface
only. A new one is a file with a subclass and an entry in `cada_edge.trainer.config.BASES`; CONTRIBUTING.md
shows a complete one.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from cada_edge.errors import ConfigError
from cada_edge.trainer.config import BASES, TrainConfig, from_dict
from cada_edge.trainer.encoders import Encoder

__all__ = ["BaseMethod", "Sourced", "build_base", "check_option", "configure", "load_base"]


@dataclass(frozen=True)
class Sourced:
    """A value of a recipe and where it comes from."""

    value: Any
    """Of a field of `TrainConfig`."""
    source: str
    """Section of the paper, or 'author's public code' where the paper is silent."""


def check_option(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a base method's option that is not among its choices.

    Raises:
        ConfigError: It is not.
    """
    if value not in choices:
        raise ConfigError(
            f"base option {name} {value!r} came; wanted one of {', '.join(choices)}. "
            f"Pass --base-option {name}={next(iter(choices))}."
        )


class BaseMethod(nn.Module, ABC):
    """A frozen encoder with something trained that tells how far an image is from the good parts seen."""

    Options: ClassVar[type]
    """Frozen dataclass of the method's own options; its `__post_init__` refuses impossible values."""
    RECIPE: ClassVar[Mapping[str, Sourced]]
    """Field of `TrainConfig` ('aligner.beta' for a nested one) -> the method's value."""
    STRIDES: ClassVar[tuple[int, ...]] = (4, 8, 16)
    """Strides of the feature maps that the method asks the encoder for."""
    DEFINITIONS: ClassVar[tuple[str, ...]] = ()
    """Names of the distance map's definitions, where the method's sources differ on it (`definitions_on`)."""

    encoder: Encoder
    """The frozen encoder; its mean and standard deviation are what images are normalised by."""
    bottleneck_channels: int
    """Channels of the tapped feature, from which the aligner predicts."""

    @abstractmethod
    def __init__(self, encoder: Encoder, options: Any, *, size: int) -> None:
        """Build the trained parts with initial weights from torch's global generator.

        Args:
            encoder: Frozen, with maps at `STRIDES`.
            options: An instance of `Options`.
            size: Side of the square network input, in pixels, a multiple of 32.
        """
        super().__init__()

    def map_grid(self, size: int) -> list[tuple[int, float]]:
        """Tell where the positions of each distance map lie.

        Args:
            size: Side of the input, in pixels.

        Returns:
            For each distance map its positions along a side, and the pixel on which the first is centred.
        """
        return [
            (size // stride, offset)
            for stride, offset in zip(self.STRIDES, self.encoder.offsets, strict=True)
        ]

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute what stays constant during training, so that it may be cached: the frozen features.

        Args:
            images: float (N, 3, S, S), RGB, normalised.
        """
        features: tuple[Tensor, ...] = self.encoder(images)
        return features

    @abstractmethod
    def loss_on(self, encoded: Sequence[Tensor], *, progress: float = 0.0) -> Tensor:
        """Compute the training loss, a scalar, from `encode`'s result.

        Args:
            encoded: What `encode` gave.
            progress: Share of the training done, 0-1, for what anneals.
        """

    @abstractmethod
    def maps_on(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Compute distance maps and the tapped feature from `encode`'s result.

        Returns:
            Distance maps, float32 (N, h_k, h_k), one for each entry of `map_grid`, whose upsampled mean is
            the anomaly map; and the tapped feature (N, C, h, w) with C = `bottleneck_channels`.
        """

    def definitions_on(self, encoded: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Compute the distance maps under each of `DEFINITIONS`: name -> maps as `maps_on` gives them."""
        return {}

    def half_parts(self) -> list[nn.Module]:
        """Return what computes in half precision in an fp16 export.

        The whole method by default: then its images come, and its tapped feature goes to the regressor, in
        half precision. A method that names parts gets fp32 images, casts where a part begins, and gives its
        feature in fp32; only its encoder is cast around for it, and keeps the first convolution in fp32.
        """
        return [self]

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as AdamW's groups; a group's own lr, eps, ... win over the run's."""

    def training_loss(self, images: Tensor, *, progress: float = 0.0) -> Tensor:
        """Compute the training loss of a batch of normalised images (N, 3, S, S)."""
        return self.loss_on(self.encode(images), progress=progress)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute `maps_on` of normalised images, float (N, 3, S, S)."""
        return self.maps_on(self.encode(images))


def load_base(name: str) -> type[BaseMethod]:
    """Import a base method.

    Args:
        name: A key of `BASES`.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in BASES:
        raise ConfigError(f"base {name!r} came; wanted one of {', '.join(BASES)}. Pass --base.")
    module, _, attribute = BASES[name].partition(":")
    found: type[BaseMethod] = getattr(importlib.import_module(module), attribute)
    return found


def build_base(config: TrainConfig, encoder: Encoder) -> BaseMethod:
    """Build a run's base method.

    Args:
        config: The run's configuration.
        encoder: With maps at the method's strides.

    Raises:
        ConfigError: An option that the method does not have, or an impossible value of one.
    """
    base = load_base(config.base)
    known = [field.name for field in dataclasses.fields(base.Options)]
    unknown = [name for name in config.base_options if name not in known]
    if unknown:
        raise ConfigError(
            f"base_options has {', '.join(map(repr, unknown))}; the base {config.base} knows "
            f"{', '.join(known) or 'none'}. Correct --base-option NAME=VALUE."
        )
    return base(encoder, base.Options(**config.base_options), size=config.size)


def configure(values: Mapping[str, Any]) -> TrainConfig:
    """Make a configuration from some values: what they leave open comes from the base method's recipe.

    Args:
        values: Any part of `TrainConfig`, as for `cada_edge.trainer.config.from_dict`.

    Raises:
        ConfigError: An unknown key or an impossible value.

    Example:
        >>> config = configure({"base": "revdist", "size": 128})
        >>> config.size, config.iterations, config.aligner.beta
        (128, 5000, 0.1)
    """
    name = values.get("base", TrainConfig.base)
    merged = dict(values)
    # Another type than a text is left to from_dict, which says what was wanted; so is an unknown name.
    recipe = load_base(name).RECIPE if isinstance(name, str) and name in BASES else {}
    for field, sourced in recipe.items():
        outer, _, inner = field.partition(".")
        if not inner:
            merged.setdefault(outer, sourced.value)
            continue
        nested = merged.get(outer, {})
        if isinstance(nested, Mapping):
            merged[outer] = {inner: sourced.value, **nested}
    return from_dict(merged)
