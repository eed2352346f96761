"""Frozen feature extractors: any timm network with feature maps at the strides that a method asks for."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cada_edge.errors import ConfigError, InputError, MissingExtraError
from cada_edge.files import sha256_file

__all__ = [
    "BUNDLED",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "STRIDES",
    "Encoder",
    "build_encoder",
    "centre_offsets",
    "state_dict_sha256",
]

_log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of RGB in 0-1; of the bundled encoders, and where timm names no other."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in 0-1."""

STRIDES = (4, 8, 16)
"""Pixels of the image per position of the feature maps, where nothing else is asked for."""

BUNDLED = {"resnet18_procedural": "resnet18"}
"""Encoders whose weights come along: name -> timm architecture (recipe: `cada_edge.trainer.pretrain`)."""

_CONTAINER = re.compile(r"^([a-z_]+)\.(\d+)\.")

_WEIGHTS_FOLDER = Path(__file__).parent / "weights"


class Encoder(nn.Module):
    """A frozen timm feature extractor that stays in eval mode and takes no gradients."""

    def __init__(
        self,
        network: nn.Module,
        channels: tuple[int, ...],
        *,
        strides: tuple[int, ...] = STRIDES,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        """Freeze a network.

        Args:
            network: A feature extractor.
            channels: Of its maps.
            strides: Of its maps: pixels of the image per position.
            mean: Of RGB in 0-1, that the network was trained with.
            std: Of RGB in 0-1, above 0.
        """
        super().__init__()
        self.mean, self.std = mean, std
        self.network = network
        self.channels = channels
        self.strides = strides
        self.offsets = centre_offsets(network.eval(), strides)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode: the batch statistics of a frozen network are constants."""
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: float (N, 3, S, S), RGB, normalised by `mean` and `std`.

        Returns:
            Feature maps (N, C_k, S / stride, S / stride), one for each of `strides`.
        """
        return tuple(self.network(images))


def centre_offsets(network: nn.Module, strides: tuple[int, ...] = STRIDES) -> tuple[float, ...]:
    """Find the pixel on which the first position of each feature map is centred.

    It depends on the padding: 0 where strided layers pad both sides (ResNets), (stride - 1) / 2 where they
    tile the image (ConvNeXt), stride - 1 where they pad below and right only (TensorFlow's EfficientNets).
    It is measured: the centroid of the gradient that central positions send back to a random image, taken to
    the nearest of the three.

    Args:
        network: A feature extractor in eval mode, on the CPU.
        strides: Of its maps.

    Returns:
        Pixels, one for each stride.
    """
    side = 256
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, side, side, generator=generator).requires_grad_()
    offsets = []
    with torch.enable_grad():
        features = network(images)
    for stride, feature in zip(strides, features, strict=True):
        middle = feature.shape[-1] // 2
        found = []
        for at in (middle - 1, middle):
            (gradient,) = torch.autograd.grad(feature[:, :, at, at].square().sum(), images, retain_graph=True)
            weight = gradient.abs().sum((0, 1, 2)).double()
            centroid = float((weight * torch.arange(side)).sum() / weight.sum())
            found.append(centroid - stride * at)
        measured = sum(found) / len(found)
        offsets.append(min((0.0, (stride - 1) / 2, stride - 1.0), key=lambda choice: abs(choice - measured)))
    return tuple(offsets)


def build_encoder(
    name: str, weights: str | None = None, *, strides: tuple[int, ...] = STRIDES
) -> tuple[Encoder, str]:
    """Build a frozen encoder with its weights.

    Args:
        name: timm name and tag (as 'wide_resnet50_2.tv_in1k'), or one of `BUNDLED`.
        weights: A .safetensors or .pth file with timm's or torchvision's keys; 'random' for random weights;
            None for the bundled file, or timm's hub.
        strides: Of the feature maps that are wanted, rising.

    Returns:
        The encoder and the SHA-256 of its weights: of the file, of the state dict's bytes where timm's hub
        gave them (`state_dict_sha256`), or 'random'.

    Raises:
        ConfigError: timm does not know the name, or the network has no maps at these strides.
        InputError: The weights cannot be read, do not fit, or cannot be downloaded.
    """
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("Training", "timm", "train") from error
    architecture = BUNDLED.get(name, name)
    if weights is None and name in BUNDLED:
        weights = str(_WEIGHTS_FOLDER / f"{name}.safetensors")
    if not timm.is_model(architecture.split(".")[0]):
        close = timm.list_models(f"*{architecture.split('.')[0][:6]}*")[:5]
        raise ConfigError(
            f"The encoder {name!r} is not known to timm {timm.__version__}; "
            f"wanted a timm model name or one of {', '.join(BUNDLED)}. Similar: {', '.join(close) or 'none'}."
        )
    _check_tag(name, architecture)
    download = weights is None
    network = _create(name, architecture, strides, pretrained=download)
    if weights == "random" or weights is None:
        fingerprint = state_dict_sha256(network.state_dict()) if download else "random"
    else:
        _load_weights(network, Path(weights))
        fingerprint = sha256_file(weights)
    info: Any = network.feature_info
    trained: Any = None if name in BUNDLED else timm.models.get_pretrained_cfg(architecture)
    return Encoder(
        network,
        tuple(int(channels) for channels in info.channels()),
        strides=strides,
        mean=_three(getattr(trained, "mean", None)) or IMAGENET_MEAN,
        std=_three(getattr(trained, "std", None)) or IMAGENET_STD,
    ), fingerprint


def state_dict_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a fingerprint of weights that came without a file, 64 hexadecimal digits.

    It goes over the names in their order, each with dtype, shape and bytes: the same weights give the same
    digits wherever they are loaded.

    Args:
        state: Name -> tensor.

    Example:
        >>> state_dict_sha256({"b": torch.ones(2), "a": torch.zeros(1)})[:16]
        '532841892f192fb2'
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # As bytes first: numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _three(values: Any) -> tuple[float, float, float] | None:
    """Return values of three channels as floats, None where timm gives none."""
    if values is None or len(values) != 3:
        return None
    return float(values[0]), float(values[1]), float(values[2])


def _check_tag(name: str, architecture: str) -> None:
    import timm

    model, _, tag = architecture.partition(".")
    if not tag:
        return
    prefix = f"{model}."
    known = [item.removeprefix(prefix) for item in timm.list_pretrained(f"{model}.*")]
    if tag not in known:
        raise ConfigError(
            f"The encoder {name!r} came with the tag {tag!r}, which timm {timm.__version__} does not know; "
            f"wanted {model} with one of {', '.join(known) or 'no tag'}. "
            f"Pass --encoder {'.'.join([model, *known[:1]])}."
        )


def _create(name: str, architecture: str, strides: tuple[int, ...], *, pretrained: bool) -> Any:
    import timm

    try:
        probe: Any = timm.create_model(architecture, features_only=True, pretrained=False)
        reductions = list(probe.feature_info.reduction())
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
        out_indices = [probe.feature_info.out_indices[index] for index in indices]
    except (ValueError, RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"The encoder {name!r} gives no feature maps at strides {strides} ({error}). "
            "Choose a convolutional network, as resnet18, wide_resnet50_2 or efficientnet_b4."
        ) from error
    try:
        return timm.create_model(
            architecture, features_only=True, pretrained=pretrained, out_indices=out_indices
        )
    except Exception as error:  # broad: the hub raises what its HTTP library raises
        if not pretrained:
            raise
        raise InputError(
            f"The weights of {name!r} could not be downloaded ({type(error).__name__}: {error}). "
            "On a machine with a network run: "
            f"python -c \"import timm, torch; torch.save(timm.create_model('{name}', pretrained=True)"
            ".state_dict(), 'encoder.pth')\", bring the file here and pass --encoder-weights encoder.pth"
        ) from error


def _flattened(key: str) -> str:
    return _CONTAINER.sub(r"\1_\2.", key, count=1)


def _load_weights(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(
            f"There is no weights file at {path}. Wanted a .safetensors or .pth state dict of the encoder; "
            "check --encoder-weights."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broad: each format has its own errors
        raise InputError(
            f"The weights file {path} cannot be read ({type(error).__name__}: {error}). "
            "Wanted a .safetensors or .pth state dict; copy it again."
        ) from error
    state = state.get("state_dict", state)
    wanted = network.state_dict()
    found = {key.removeprefix("module."): value for key, value in state.items()}
    # timm's feature extractors name 'stem_0.weight' what its full models name 'stem.0.weight'.
    found.update({flat: found[key] for key in list(found) if (flat := _flattened(key)) not in found})
    # BatchNorm's step counters are not in every export and change nothing in eval mode.
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    wrong = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    if missing or wrong:
        examples = ", ".join((missing + wrong)[:3])
        raise InputError(
            f"The weights file {path} does not fit the encoder: "
            f"{len(missing)} of {len(wanted)} tensors missing, {len(wrong)} of another shape ({examples}). "
            "Pass a file of the same architecture in timm's or torchvision's keys."
        )
    network.load_state_dict({key: found.get(key, wanted[key]).to(wanted[key].dtype) for key in wanted})
    _log.info("encoder weights from %s", path)
