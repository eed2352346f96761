"""Configuration of a training run: one dataclass, saved with every checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cada_edge.errors import ConfigError
from cada_edge.runtime.preprocess import RESIZE_NAME, RESIZES

__all__ = [
    "ALIGNMENTS",
    "BASES",
    "PER_MACHINE",
    "RECIPES",
    "AlignerConfig",
    "SmoothingConfig",
    "TrainConfig",
    "from_dict",
    "load_yaml",
]

BASES = {
    "revdist": "cada_edge.trainer.revdist:RevDist",
    "recontrast": "cada_edge.trainer.recontrast:ReContrast",
    "uniad": "cada_edge.trainer.uniad:UniAD",
}
"""Base method -> where its class is (`cada_edge.trainer.base_method`), as text: no torch for the names."""

ALIGNMENTS = ("none", "cada", "cada-sigma", "class-predicted", "class-aware")
"""Alignment variants by name; 'class-aware' is told each image's category, so it is for evaluation only."""

PER_MACHINE = ("device", "threads", "cache_features", "save_every", "compile", "log_every")
"""Fields that may differ when a run is resumed: they say where it runs, not what it computes."""

RECIPES = ("default", "paper")
"""Named sets of values; 'paper' holds out no images, so that all of them are trained on as in the paper."""


_PREFIXES = {"TrainConfig": "", "AlignerConfig": "aligner", "SmoothingConfig": "smoothing"}

_WANTED = {
    "int": "a whole number",
    "float": "a number, as 1.0e-5",
    "str": "a text",
    "bool": "true or false",
}


def _choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{name} {value!r} came; wanted one of {', '.join(choices)}.{hint}")


def _refuse(config: Any, name: str, wanted: str) -> NoReturn:
    prefix = _PREFIXES[type(config).__name__]
    where = f"Set {prefix}.{name} in the configuration." if prefix else f"Pass --{name.replace('_', '-')}."
    raise ConfigError(
        f"{prefix}{' ' if prefix else ''}{name} {getattr(config, name)!r} came; wanted {wanted}. {where}"
    )


def _check_types(config: Any) -> None:
    """Hold each value against its field's annotation; a bool is no number."""
    for item in dataclasses.fields(config):
        value: Any = getattr(config, item.name)
        kind, _, optional = str(item.type).partition(" | ")
        if value is None and optional:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = {
            "int": whole,
            "float": whole or (isinstance(value, float) and math.isfinite(value)),
            "str": isinstance(value, str),
            "dict[str, Any]": isinstance(value, dict),
        }.get(kind, type(value).__name__ == kind)
        if not fits:
            _refuse(config, item.name, _WANTED.get(kind, "'name: value' pairs indented below it"))


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            _refuse(config, name, "a number above 0")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            _refuse(config, name, "a number from 0")


def _within(config: Any, name: str, low: float, high: float) -> None:
    if not low <= getattr(config, name) <= high:
        _refuse(config, name, f"a number from {low} to {high}")


@dataclass(frozen=True)
class SmoothingConfig:
    """Gaussian smoothing of the aligned map (the CADA author's public code: 5x5, sigma 4, zeros outside)."""

    kernel: int = 5
    """Side of the kernel, in pixels, odd; 1 switches the smoothing off."""
    sigma: float = 4.0
    """Standard deviation, in pixels."""
    padding: str = "zero"
    """'zero' (outside the image lies u^) or 'reflect'."""

    def __post_init__(self) -> None:
        _check_types(self)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"smoothing kernel {self.kernel} came; wanted an odd number of pixels from 1. "
                "Pass 5, or 1 for none."
            )
        if self.sigma <= 0:
            raise ConfigError(
                f"smoothing sigma {self.sigma} came; wanted more than 0 pixels. Pass 4.0, the author's value."
            )
        if self.padding not in ("zero", "reflect"):
            raise ConfigError(f"smoothing padding {self.padding!r} came; wanted 'zero' or 'reflect'.")


@dataclass(frozen=True)
class AlignerConfig:
    """The regressor of paper section 3.3 and its training (section 4.2)."""

    iterations: int = 5_000
    """SGD steps."""
    batch_size: int = 16
    """Images in a step."""
    learning_rate: float = 5e-2
    """Of SGD."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """Of SGD."""
    beta: float = 0.1
    """Threshold alpha of the smooth L1 loss, Eq. 4, in units of the anomaly map."""
    convolutions: int = 1
    """Convolutions before the pooling, 0-2 (Table 3)."""
    kernel: int = 1
    """Their side, 1 or 3; the paper does not say (see docs in `cada_edge.trainer.aligner`)."""
    linears: int = 2
    """Linear layers after the pooling, 1-3 (Table 3)."""
    hidden: int = 256
    """Width between the linear layers."""
    dropout: float = 0.25
    """Probability before each linear layer, 0-1."""

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "iterations", "batch_size", "learning_rate", "beta", "hidden")
        _not_negative(self, "weight_decay")
        if not 0 <= self.momentum < 1:
            _refuse(self, "momentum", "a number from 0, less than 1")
        _within(self, "convolutions", 0, 2)
        _within(self, "linears", 1, 3)
        _within(self, "dropout", 0.0, 0.95)
        if self.kernel not in (1, 3):
            raise ConfigError(f"aligner kernel {self.kernel} came; wanted 1 or 3.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: base method, then aligner, then threshold."""

    base: str = "revdist"
    """Base method, one of `BASES`."""
    encoder: str = "wide_resnet50_2.tv_in1k"
    """timm name and tag, or 'resnet18_procedural', the small one that comes with cada-edge."""
    encoder_weights: str | None = None
    """A .safetensors or .pth file with the encoder's weights, instead of timm's hub; 'random' for none."""
    base_options: dict[str, Any] = field(default_factory=dict)
    """The base method's own options by name, as its class lists them in `Options`."""
    size: int = 256
    """Side of the square network input, in pixels, a multiple of 32."""
    resize: str = RESIZE_NAME
    """How images come to that size: cameras' own way, or 'pil-bilinear' as in the paper's code family, for
    comparisons with its figures: such a model is not exported."""
    recipe: str = "default"
    """One of `RECIPES`."""
    iterations: int = 5_000
    """AdamW steps of the base method (section 4.2)."""
    batch_size: int = 16
    """Images in a step (section 4.2)."""
    learning_rate: float = 2e-3
    """Of AdamW (section 4.2)."""
    weight_decay: float = 1e-5
    """Of AdamW (section 4.2)."""
    schedule: str = "constant"
    """Learning rate over the run: 'constant' (the paper names none), 'step' (a fifth from 80 % of the run on)
    or 'cosine' to 0 after 5 % warm-up."""
    gradient_clip: float = 0.0
    """Largest norm of the gradient of all trained parameters; 0 for no limit."""
    alignment: str = "cada"
    """What is trained and exported: 'cada' (predict u^ and g^; section 3.3), 'cada-sigma' (the same, with
    u + 3 sigma for the maximum: for training images with anomalies among them, Table 5), 'class-predicted'
    (predict the category and use its u_c and g_c, CaDA-B of section 3.2; needs folders that name categories)
    or 'none'. The class-aware reference's statistics are kept beside each."""
    aligner: AlignerConfig = AlignerConfig()
    """The regressor."""
    smoothing: SmoothingConfig = SmoothingConfig()
    """Of the aligned map."""
    upsampling: str = "auto"
    """How maps become images: 'centred' puts each position on the pixel that the encoder looks at there,
    'corners' aligns the corners as the authors' code does, which shifts marks by up to a cell; 'auto' is
    'corners' under the recipe 'paper', else 'centred'."""
    top_fraction: float = 0.01
    """Share of the highest pixels whose mean is the image's score, 0-1; 0 is the maximum alone (Table 3)."""
    holdout_fraction: float = 0.1
    """Share of the normal images kept from base and aligner for the threshold, 0-0.5."""
    false_alarm_rate: float = 0.005
    """Wanted rate of false alarms at the threshold, 0-1."""
    seed: int = 0
    """Of initial weights, sampling and dropout, 0 to 2**32 - 1."""
    device: str = "auto"
    """'auto' (CUDA where there is a device, said in the log), 'cpu', 'cuda' or 'cuda:N'."""
    amp: str = "auto"
    """Mixed precision (bf16) of the base's training: 'auto' (on CUDA only), 'on' or 'off'.

    A CPU with AVX-512 BF16 or AMX gains from 'on' too.
    """
    threads: int | None = None
    """CPU threads; None leaves torch's own choice."""
    cache_features: str = "auto"
    """Keep the frozen encoder's features in memory: 'auto' (on the CPU, up to 4 GiB), 'on' or 'off'."""
    compile: bool = False
    """Compile the base's loss with torch.compile, on CUDA or the CPU: the same function up to rounding, but
    other random numbers in dropout. One process only."""
    save_every: int = 250
    """Iterations between two resumable states."""
    log_every: int = 25
    """Iterations between two rows of the log."""

    def __post_init__(self) -> None:
        _check_types(self)
        _choice("base", self.base, BASES)
        _choice("recipe", self.recipe, RECIPES)
        _choice("resize", self.resize, RESIZES)
        if self.alignment == "class-aware":
            raise ConfigError(
                "alignment 'class-aware' came; it needs each image's category, which a camera does not tell: "
                "it is a reference for evaluation only. Train with --alignment cada or class-predicted; "
                "every checkpoint can be evaluated so: cada-edge eval CHECKPOINT DATA --alignment class-aware"
            )
        _choice("alignment", self.alignment, ALIGNMENTS)
        _choice("upsampling", self.upsampling, ("auto", "centred", "corners"))
        _choice("amp", self.amp, ("auto", "on", "off"))
        _choice("schedule", self.schedule, ("constant", "step", "cosine"))
        _choice("cache_features", self.cache_features, ("auto", "on", "off"))
        _positive(self, "iterations", "batch_size", "learning_rate", "save_every", "log_every")
        _not_negative(self, "weight_decay", "gradient_clip")
        _within(self, "seed", 0, 2**32 - 1)
        _within(self, "top_fraction", 0.0, 1.0)
        _within(self, "holdout_fraction", 0.0, 0.5)
        if not 0 < self.false_alarm_rate < 1:
            raise ConfigError(
                f"false_alarm_rate {self.false_alarm_rate} came; wanted more than 0 and less than 1. "
                "Pass --false-alarm-rate 0.005 for one in two hundred."
            )
        if self.size < 32 or self.size % 32:
            raise ConfigError(
                f"size {self.size} came; wanted a multiple of 32 from 32 pixels. Pass --size 256."
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(
                f"threads {self.threads} came; wanted at least 1. Leave --threads out for torch's choice."
            )

    @property
    def aligns_corners(self) -> bool:
        """Whether maps are upsampled as in the authors' code."""
        return self.upsampling == "corners" or (self.upsampling == "auto" and self.recipe == "paper")

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, numbers and strings."""
        return dataclasses.asdict(self)


_NESTED = {"aligner": AlignerConfig, "smoothing": SmoothingConfig}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """Make a configuration from plain values, as a checkpoint or a YAML file holds them.

    Args:
        values: Any part of `TrainConfig`, 'aligner' and 'smoothing' as mappings of their own.

    Raises:
        ConfigError: An unknown key, named with the closest known one, or an impossible value.
    """
    values = dict(values)
    for name, cls in _NESTED.items():
        if isinstance(values.get(name), dict):
            _known(cls, values[name], prefix=f"{name}.")
            values[name] = cls(**_as_meant(cls, values[name]))
    _known(TrainConfig, values, prefix="")
    return TrainConfig(**_as_meant(TrainConfig, values))


def _as_meant(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Undo what YAML 1.1 makes of plain values: 1e-5 (no dot) is a text to it, on and off are bools."""
    kinds = {item.name: str(item.type) for item in dataclasses.fields(cls)}
    meant = dict(values)
    for name, value in values.items():
        if kinds[name] == "float" and isinstance(value, str):
            with contextlib.suppress(ValueError):
                meant[name] = float(value)
        elif kinds[name] == "str" and isinstance(value, bool):
            meant[name] = "on" if value else "off"
    return meant


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of configuration values.

    Args:
        path: The file; its keys are `TrainConfig`'s fields.

    Raises:
        ConfigError: Not readable, or not a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"The configuration {path} cannot be read: {error}. "
            "Wanted YAML in UTF-8 with one 'name: value' a line."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"The configuration {path} holds a {type(values).__name__}; wanted 'name: value' pairs."
        )
    return values


def _known(cls: type, values: dict[str, Any], *, prefix: str) -> None:
    names = [item.name for item in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1)
            hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known: {', '.join(names)}."
            raise ConfigError(f"The configuration has the unknown key {prefix}{key}. {hint}")
