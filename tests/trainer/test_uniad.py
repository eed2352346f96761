from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_edge.errors import ConfigError
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.encoders import build_encoder
from cada_edge.trainer.model import TrainedModel, build_model
from cada_edge.trainer.uniad import (
    Neck,
    UniAD,
    UniADOptions,
    feature_distance,
    jittered,
    visible_neighbourhood,
)
from cada_edge.trainer.uniad_transformer import Attention, neighbour_mask


def _uniad(name: str = "mobilenetv3_small_100", size: int = 64, options: UniADOptions | None = None) -> UniAD:
    torch.manual_seed(0)
    encoder, _ = build_encoder(name, "random", strides=UniAD.STRIDES)
    return UniAD(encoder, options or UniADOptions(), size=size)


def _constant(base: UniAD, value: float) -> None:
    """Make the transformer rebuild every feature as one value."""
    nn.init.zeros_(base.transformer.output.weight)
    nn.init.constant_(base.transformer.output.bias, value)


@pytest.fixture(scope="module")
def efficientnet() -> UniAD:
    """The paper's architecture, with random weights."""
    return _uniad("tf_efficientnet_b4", 224).eval()


def test_efficientnet_b4_gives_272_channels_at_14x14(efficientnet: UniAD) -> None:
    assert efficientnet.encoder.channels == (24, 32, 56, 160)
    with torch.no_grad():
        (feature,) = efficientnet.encode(torch.randn(1, 3, 224, 224))
        maps, tapped = efficientnet.maps_on((feature,))
    assert feature.shape == (1, 272, 14, 14)
    assert [tuple(item.shape) for item in maps] == [(1, 14, 14)]
    assert tapped.shape == (1, 256, 14, 14)
    trained = sum(parameter.numel() for parameter in efficientnet.parameters() if parameter.requires_grad)
    assert trained == 7_717_392
    hidden = (efficientnet.transformer.bias < 0).sum(1)
    assert (hidden.min().item(), hidden.max().item()) == (16, 49)
    # TensorFlow pads below and right: the first position looks at the last of its 16 pixels.
    assert efficientnet.map_grid(224) == [(14, 15.0)]


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("resnet18", 64, 64 + 64 + 128 + 256),
        ("mobilenetv3_small_100", 64, 16 + 16 + 24 + 48),
        ("efficientnet_b0", 96, 16 + 24 + 40 + 112),
        ("resnet18_procedural", 32, 64 + 64 + 128 + 256),
    ],
)
def test_any_timm_cnn_with_maps_at_the_strides(name: str, size: int, channels: int) -> None:
    torch.manual_seed(0)
    encoder, _ = build_encoder(name, None if name.endswith("procedural") else "random", strides=UniAD.STRIDES)
    side = size // 16
    for tap, width in (("transformer", 256), ("neck", channels)):
        base = UniAD(encoder, UniADOptions(tap=tap), size=size).eval()
        with torch.no_grad():
            maps, tapped = base(torch.randn(2, 3, size, size))
        assert [tuple(item.shape) for item in maps] == [(2, side, side)]
        assert tapped.shape == (2, width, side, side)
        assert base.bottleneck_channels == width
        assert torch.isfinite(maps[0]).all()


def test_a_network_without_a_map_at_stride_2_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no feature maps at strides \(2, 4, 8, 16\)"):
        build_encoder("convnext_atto", "random", strides=UniAD.STRIDES)


@pytest.mark.parametrize("sides", [(112, 56, 28, 14), (16, 8, 4, 2)])
def test_the_neck_resizes_bilinearly_with_aligned_corners(sides: tuple[int, ...]) -> None:
    features = [torch.randn(2, 3 + index, side, side) for index, side in enumerate(sides)]
    expected = torch.cat(
        [F.interpolate(item, sides[-1:] * 2, mode="bilinear", align_corners=True) for item in features], 1
    )
    torch.testing.assert_close(Neck(sides)(features), expected, atol=1e-5, rtol=1e-5)


def test_distances_by_hand() -> None:
    target = torch.tensor([3.0, 1.0, 0.0, 2.0]).reshape(1, 2, 1, 2)  # positions (3, 0) and (1, 2)
    rebuilt = torch.tensor([0.0, 1.0, 4.0, 2.0]).reshape(1, 2, 1, 2)  # positions (0, 4) and (1, 2)
    assert feature_distance(target, rebuilt, "mse").tolist() == [[[12.5, 0.0]]]
    assert feature_distance(target, rebuilt, "l2").tolist() == [[[5.0, 0.0]]]
    assert feature_distance(target.half(), rebuilt.half(), "mse").dtype == torch.float32


@pytest.mark.parametrize(("distance", "expected"), [("mse", 2.25), ("l2", 1.5 * math.sqrt(104))])
def test_the_map_follows_the_option(distance: str, expected: float) -> None:
    base = _uniad(options=UniADOptions(distance=distance)).eval()
    _constant(base, 1.0)
    (found,), _ = base.maps_on((torch.full((1, 104, 4, 4), 2.5),))
    torch.testing.assert_close(found, torch.full((1, 4, 4), expected))


def test_the_loss_by_hand() -> None:
    base = _uniad()
    _constant(base, 1.0)
    feature = torch.full((2, 104, 4, 4), 3.0)
    feature[1, 0, 0, 0] = 11.0
    # All differ by 2 but one value by 10; jitter changes what goes in and not what it is compared with.
    expected = (4 * (2 * 104 * 16 - 1) + 100) / (2 * 104 * 16)
    for mode in (True, False):
        assert base.train(mode).loss_on((feature,)).item() == pytest.approx(expected, rel=1e-6)


def test_the_jitter_is_in_proportion_to_the_token() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 50, 272) * torch.tensor([0.1, 1.0, 30.0]).reshape(3, 1, 1)
    noise = jittered(tokens, 20.0) - tokens
    norm = tokens.double().square().sum(2).sqrt()
    ratio = noise.double().square().mean(2).sqrt() / norm
    assert ratio.mean(1).tolist() == pytest.approx([20 / 272] * 3, rel=0.01)  # 13,600 numbers each
    assert ratio.std().item() / ratio.mean().item() == pytest.approx(1 / math.sqrt(2 * 272), rel=0.2)
    assert (noise.mean(2) / norm).mean().item() == pytest.approx(0, abs=0.002)


def test_the_jitter_draws_from_the_global_generator() -> None:
    tokens = torch.randn(2, 5, 8)
    torch.manual_seed(7)
    first, second = jittered(tokens, 20.0), jittered(tokens, 20.0)
    torch.manual_seed(7)
    assert torch.equal(jittered(tokens, 20.0), first)
    assert not torch.equal(first, second)
    # The noise of the manual formula, drawn first of all.
    torch.manual_seed(7)
    deviation = torch.linalg.vector_norm(tokens, dim=2, keepdim=True) / 8 * 20
    torch.testing.assert_close(first, tokens + torch.randn(2, 5, 8) * deviation)


def test_the_jitter_has_a_probability() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 2, 4)
    changed = [not torch.equal(jittered(tokens, 20.0, probability=0.25), tokens) for _ in range(400)]
    assert 70 < sum(changed) < 130  # 100 are expected, deviation 8.7
    assert torch.equal(jittered(tokens, 20.0, probability=0.0), tokens)


def test_jitter_and_dropout_act_in_training_only() -> None:
    base = _uniad()
    encoded = base.encode(torch.randn(2, 3, 64, 64))
    entered: list[Tensor] = []
    base.transformer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    base.eval()
    (first,), tapped = base.maps_on(encoded)
    (second,), tapped_again = base.maps_on(encoded)
    assert torch.equal(first, second)
    assert torch.equal(tapped, tapped_again)
    base.train()
    base.loss_on(encoded)
    tokens = encoded[0].flatten(2).transpose(1, 2)
    assert torch.equal(entered[0], tokens)
    assert torch.equal(entered[1], tokens)
    assert not torch.equal(entered[2], tokens)
    assert not any(module.training for module in base.encoder.modules())


def test_gradients_reach_the_transformer_alone() -> None:
    base = _uniad().train()
    base.training_loss(torch.randn(2, 3, 64, 64)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in base.encoder.parameters())
    trained = dict(base.transformer.named_parameters())
    assert all(parameter.grad is not None for parameter in trained.values())
    # Keys' biases shift all scores of a query alike and so have no effect; all else learns.
    still = [name for name, value in trained.items() if value.grad is None or value.grad.abs().max() < 1e-9]
    assert all(name.endswith("key.bias") for name in still)
    (group,) = base.parameter_groups()
    assert {id(item) for item in group["params"]} == {id(item) for item in trained.values()}


def test_training_lowers_the_loss() -> None:
    base = _uniad("resnet18").train()
    encoded = base.encode(torch.randn(4, 3, 64, 64))
    optimizer = torch.optim.AdamW(base.parameter_groups(), 3e-4)
    losses = []
    for _ in range(12):
        loss = base.loss_on(encoded)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(base.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_mixed_precision_gives_nearly_the_same_loss() -> None:
    base = _uniad("resnet18").eval()
    images = torch.randn(4, 3, 64, 64)
    exact = base.training_loss(images)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = base.encode(images)
        mixed = base.loss_on(encoded)
    assert encoded[0].dtype == torch.bfloat16
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.02)
    assert torch.isfinite(base.train().loss_on(encoded))


@pytest.mark.parametrize("side", [2, 4, 6, 8, 10, 14, 16])
def test_every_token_sees_some_of_the_grid(side: int) -> None:
    kept = visible_neighbourhood(7, side)
    assert kept == (7 if side > 7 else side - 1)
    visible = (~neighbour_mask(side, kept)).sum(1)
    assert visible.min().item() > 0
    if kept < 7:
        assert (~neighbour_mask(side, kept + 2)).sum(1).min().item() == 0


def test_a_grid_too_small_for_the_neighbourhood_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        base = _uniad(size=96)
        assert torch.equal(base.transformer.bias < 0, neighbour_mask(6, 5))
        _uniad(size=128)
        _uniad(size=64, options=UniADOptions(neighbourhood=0))
    (record,) = caplog.records
    assert record.getMessage() == (
        "base option neighbourhood 7 came, but the grid of a 96-pixel input has 6 tokens a side, "
        "all of which it would hide; 5 is used. Pass --size 128 or more to have it as it is."
    )


def test_the_transformers_size_follows_the_options() -> None:
    base = _uniad(options=UniADOptions(layers=2, width=64, neighbourhood=1))
    assert (len(base.transformer.encoder), len(base.transformer.decoder)) == (2, 2)
    assert base.transformer.rows.shape == (4, 32)
    assert base.bottleneck_channels == 64
    assert torch.equal(base.transformer.bias < 0, torch.eye(16, dtype=torch.bool))
    heads = {module.heads for module in base.modules() if isinstance(module, Attention)}
    assert heads == {8}
    rates = {module.p for module in base.transformer.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.1}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("distance", "cosine", r"distance 'cosine' came; wanted one of mse, l2"),
        ("tap", "encoder", r"tap 'encoder' came; wanted one of transformer, neck"),
        ("jitter_scale", -1, r"jitter_scale -1 came; wanted a number from 0\. Pass .* jitter_scale=20\.0"),
        ("jitter_scale", math.nan, r"jitter_scale nan came"),
        ("jitter_probability", 1.5, r"jitter_probability 1\.5 came; wanted a number from 0 to 1\."),
        ("jitter_probability", "often", r"jitter_probability 'often' came"),
        ("layers", 0, r"layers 0 came; wanted a whole number from 1\. Pass --base-option layers=4"),
        ("layers", True, r"layers True came"),
        ("layers", 2.0, r"layers 2\.0 came"),
        ("width", 100, r"width 100 came; wanted a multiple of 8, the number of heads\."),
        ("width", 0, r"width 0 came"),
        ("neighbourhood", 4, r"neighbourhood 4 came; wanted an odd number of tokens, or 0 to hide none\."),
        ("neighbourhood", -3, r"neighbourhood -3 came"),
    ],
)
def test_impossible_options_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"base option {message}"):
        UniADOptions(**{name: value})  # type: ignore[arg-type]


def test_the_recipe_is_the_papers() -> None:
    config = configure({"base": "uniad"})
    assert (config.encoder, config.size) == ("tf_efficientnet_b4.aa_in1k", 224)
    assert (config.iterations, config.batch_size) == (50_000, 64)
    assert (config.learning_rate, config.weight_decay, config.gradient_clip) == (3e-4, 1e-4, 0.1)
    assert (config.aligner.iterations, config.aligner.beta) == (20_000, 10.0)
    sources = {sourced.source for sourced in UniAD.RECIPE.values()}
    assert all(source.startswith(("paper section ", "UniAD's public code")) for source in sources)


def test_the_scales_of_both_maps_by_hand() -> None:
    base = _uniad().eval()
    _constant(base, 0.0)
    config = configure({"base": "uniad", "size": 64})
    model = TrainedModel(base, None, dataclasses.replace(config, upsampling="corners"), floor=1.0).eval()
    feature = torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1, 1).expand(3, 104, 4, 4).clone()
    feature[0, :, 0, 0] = 5.0  # a corner, so that the maximum is a position's own value
    given = iter([(feature[:2],), (feature[2:],)])
    base.encode = lambda images: next(given)  # type: ignore[method-assign]
    frames = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    scales = model.map_scales([frames[:2], frames[2:]])
    for kind, factor, power in (("mse", 1.0, 2), ("l2", math.sqrt(104), 1)):
        positions = torch.ones(1, 1, 4, 4)
        positions[..., 0, 0] = 5.0**power
        first = F.interpolate(positions, (64, 64), mode="bilinear", align_corners=True).mean().item()
        mean, maximum = scales[kind]
        assert mean == pytest.approx(factor * (first + 3**power + 2**power) / 3, rel=1e-5)
        assert maximum == pytest.approx(factor * (5**power + 3**power + 2**power) / 3, rel=1e-5)
    assert list(scales) == ["mse", "l2"]


def test_a_method_with_one_definition_has_no_scales_to_compare() -> None:
    config = configure({"encoder": "resnet18", "size": 64})
    model, _ = build_model(config, encoder_weights="random")
    assert model.map_scales([torch.zeros(1, 64, 64, 3, dtype=torch.uint8)]) == {}


def _exported(base: UniAD, path: Path, size: int) -> Callable[[Tensor], Sequence[Any]]:
    program = torch.onnx.export(
        base,
        (torch.zeros(2, 3, size, size),),
        input_names=["images"],
        output_names=["map", "tapped"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=64)}},
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


def _assert_onnx_equals_pytorch(base: UniAD, path: Path, size: int, batches: tuple[int, ...]) -> None:
    run = _exported(base, path, size)
    for batch in batches:
        images = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            (found,), tapped = base(images)
        for got, wanted in zip(run(images), (found, tapped), strict=True):
            assert np.abs(got - wanted.numpy()).max() <= 1e-5 * max(1.0, wanted.abs().max().item())


@pytest.mark.parametrize(
    "options", [UniADOptions(layers=1), UniADOptions(distance="l2", tap="neck", layers=1)]
)
@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about its own internals
def test_onnx_equals_pytorch(tmp_path: Path, options: UniADOptions) -> None:
    path = tmp_path / "uniad.onnx"
    _assert_onnx_equals_pytorch(_uniad(options=options).eval(), path, 64, (1, 3))
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not [kind for kind in kinds if kind.startswith("Random") or kind in ("Dropout", "Resize", "If")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about its own internals
def test_onnx_of_efficientnet_b4_equals_pytorch(efficientnet: UniAD, tmp_path: Path) -> None:
    _assert_onnx_equals_pytorch(efficientnet, tmp_path / "uniad.onnx", 224, (2,))
