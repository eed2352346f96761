from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cada_edge.errors import ConfigError, InputError
from cada_edge.trainer.config import TrainConfig
from cada_edge.trainer.encoders import IMAGENET_MEAN, IMAGENET_STD, build_encoder, state_dict_sha256
from cada_edge.trainer.model import build_model
from cada_edge.trainer.revdist import RevDist, RevDistOptions


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return timm.create_model("resnet18", pretrained=False).state_dict()


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "resnet50"]
)
def test_any_timm_cnn_with_maps_at_strides_4_8_16(name: str) -> None:
    encoder, _ = build_encoder(name, "random")
    model = RevDist(encoder, RevDistOptions(), size=64).eval()
    with torch.no_grad():
        features = model.encode(torch.zeros(1, 3, 64, 64))
        maps, bottleneck = model.maps_on(features)
    assert [feature.shape[1] for feature in features] == list(encoder.channels)
    assert [tuple(item.shape) for item in maps] == [(1, 16, 16), (1, 8, 8), (1, 4, 4)]
    assert tuple(bottleneck.shape) == (1, 2 * encoder.channels[2], 2, 2)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "-wrapped.pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    state = _state()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pth":
        torch.save(state, path)  # torchvision's and timm's ResNets share their keys
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    encoder, fingerprint = build_encoder("resnet18", str(path))
    assert len(fingerprint) == 64
    loaded = encoder.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_half_precision_weights_become_fp32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in _state().items()}, path
    )
    encoder, _ = build_encoder("resnet18", str(path))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), path)
    build_encoder("resnet34", str(path))
    with pytest.raises(
        InputError, match=r"does not fit the encoder: 0 of \d+ tensors missing|does not fit the encoder"
    ):
        build_encoder("resnet50", str(path))
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(InputError, match=r"cut\.safetensors cannot be read"):
        build_encoder("resnet18", str(tmp_path / "cut.safetensors"))
    with pytest.raises(InputError, match=r"no weights file at .*check --encoder-weights"):
        build_encoder("resnet18", str(tmp_path / "none.pth"))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    torch.save({"conv1.weight": Path("anything")}, path)
    with pytest.raises(InputError, match="cannot be read"):
        build_encoder("resnet18", str(path))


def test_unknown_names_are_refused_with_similar_ones() -> None:
    with pytest.raises(ConfigError, match=r"'resnet19' is not known to timm .* Similar: .*resnet"):
        build_encoder("resnet19", "random")


def test_networks_without_a_pyramid_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no feature maps at strides \(4, 8, 16\)"):
        build_encoder("vit_tiny_patch16_224", "random")


def test_a_failed_download_says_how_to_bring_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    create: Callable[..., object] = timm.create_model

    def offline(name: str, *args: object, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise OSError("no route to the hub")
        return create(name, *args, pretrained=False, **options)

    # The download itself is the one thing replaced: tests have no network.
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"could not be downloaded \(OSError: no route.*--encoder-weights encoder.pth"
    ):
        build_encoder("resnet18.tv_in1k")


def test_downloaded_weights_have_a_fingerprint_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    create: Callable[..., torch.nn.Module] = timm.create_model
    change = 0.0

    def hub(name: str, *args: object, pretrained: bool = False, **options: object) -> torch.nn.Module:
        torch.manual_seed(7)
        network = create(name, *args, pretrained=False, **options)
        if pretrained:
            with torch.no_grad():
                next(network.parameters())[0, 0, 0, 0] += change
        return network

    # The download itself is the one thing replaced: tests have no network.
    monkeypatch.setattr(timm, "create_model", hub)
    encoder, fingerprint = build_encoder("resnet18.tv_in1k")
    assert fingerprint == state_dict_sha256(encoder.network.state_dict())
    assert build_encoder("resnet18.tv_in1k")[1] == fingerprint
    change = 1e-3
    assert build_encoder("resnet18.tv_in1k")[1] != fingerprint


def test_the_fingerprint_of_weights_is_that_of_names_types_shapes_and_bytes() -> None:
    state = {"b": torch.tensor([1.0, -2.0], dtype=torch.bfloat16), "a": torch.tensor(3)}
    content = b"a torch.int64 []\n" + (3).to_bytes(8, "little")
    content += b"b torch.bfloat16 [2]\n" + b"\x80\x3f\x00\xc0"
    assert state_dict_sha256(state) == hashlib.sha256(content).hexdigest()
    turned = {"x": torch.arange(6).reshape(2, 3).t()}
    assert state_dict_sha256(turned) == state_dict_sha256({"x": turned["x"].contiguous()})


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("resnet18", (0.0, 0.0, 0.0)),  # strided layers pad both sides
        ("convnext_atto", (1.5, 3.5, 7.5)),  # strided layers tile the image
        ("tf_efficientnet_b0", (3.0, 7.0, 15.0)),  # strided layers pad below and right
    ],
)
def test_the_pixels_on_which_positions_are_centred(name: str, offsets: tuple[float, ...]) -> None:
    encoder, _ = build_encoder(name, "random")
    assert encoder.offsets == offsets


def test_they_do_not_depend_on_the_weights() -> None:
    encoder, _ = build_encoder("resnet18_procedural")
    assert encoder.offsets == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tf_efficientnet_b0.ap_in1k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("resnet18.tv_in1k", IMAGENET_MEAN, IMAGENET_STD),
        ("resnet18_procedural", IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_images_are_normalised_as_the_encoder_was_trained(
    name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    config = TrainConfig(encoder=name, encoder_weights="random", size=64)
    model, _ = build_model(config, encoder_weights="random")
    assert (model.base.encoder.mean, model.base.encoder.std) == (mean, std)
    frame = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(1, 64, 64, 3)  # BGR
    wanted = [(value / 255 - mean[rgb]) / std[rgb] for rgb, value in enumerate((255, 128, 0))]
    assert model.normalize(frame)[0, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["convnext_atto", "regnety_002", "mobilenetv3_small_100"])
def test_weights_of_timms_full_models_fit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model(name, pretrained=False).state_dict()
    torch.save(state, tmp_path / "encoder.pth")
    encoder, _ = build_encoder(name, str(tmp_path / "encoder.pth"))
    loaded = encoder.network.state_dict()
    flat = {
        key.replace("stem.", "stem_").replace("stages.", "stages_"): value for key, value in state.items()
    }
    for key, value in loaded.items():
        assert torch.equal(value, state[key] if key in state else flat[key])


def test_unknown_tags_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'resnet18.foo' came with the tag 'foo', which timm .* does not know; "
        r"wanted resnet18 with one of .*tv_in1k.* Pass --encoder resnet18\.",
    ):
        build_encoder("resnet18.foo", "random")
