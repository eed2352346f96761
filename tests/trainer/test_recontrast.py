from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cada_edge.errors import ConfigError
from cada_edge.trainer.encoders import build_encoder
from cada_edge.trainer.recontrast import ReContrast, ReContrastOptions, hard_mining_loss, mining_level
from cada_edge.trainer.revdist import flattened_cosine_loss


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _small(**options: str) -> ReContrast:
    torch.manual_seed(0)
    encoder, _ = build_encoder("resnet18", "random")
    return ReContrast(encoder, ReContrastOptions(**options), size=64)


def _batch(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_wide_resnet_has_the_sizes_of_the_authors() -> None:
    encoder, _ = build_encoder("wide_resnet50_2", "random")
    model = ReContrast(encoder, ReContrastOptions(), size=256)
    # RevDist's parts (method.md, counted in RD4AD's own code), the encoder twice, and two sets of 1x1 heads.
    assert _count(model.encoder) == _count(model.trained) == 24_862_528
    assert (_count(model.bottleneck), _count(model.decoder)) == (58_885_120, 24_917_504)
    assert _count(model.frozen_heads) == _count(model.trained_heads) == 256**2 + 512**2 + 1024**2
    # The authors' 144.7 M include RD4AD's unused 1x1 convolution 4096 -> 2048 with its batch-norm.
    assert round((_count(model) + 4096 * 2048 + 2 * 2048) / 1e6, 1) == 144.7


def test_the_level_rises_over_the_first_tenth() -> None:
    found = [mining_level(share) for share in (0.0, 0.025, 0.05, 0.1, 0.5, 1.0)]
    assert found == pytest.approx([-3.0, -2.0, -1.0, 1.0, 1.0, 1.0])


def test_easy_positions_send_no_gradient_by_hand() -> None:
    # Two positions of two channels: the first parallel to its target (distance 0), the second orthogonal.
    target = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2)
    ours = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]], requires_grad=True)
    loss = hard_mining_loss([target], [ours], level=0.0)
    # Flattened: a = (1, 1, 0, 0), b = (2, 0, 0, 1): cosine 2 / (sqrt(2) * sqrt(5)).
    assert loss.item() == pytest.approx(1 - 2 / math.sqrt(10), abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert ours.grad[..., 0].abs().max() == 0
    # d(-cos)/db = -(a / (|a||b|) - cos * b / |b|^2), at the second position a = (1, 0), b = (0, 1).
    cosine = 2 / math.sqrt(10)
    assert ours.grad[0, :, 0, 1].tolist() == pytest.approx([-1 / math.sqrt(10), cosine / 5], abs=1e-6)


def test_at_the_lowest_level_it_is_the_flattened_cosine_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    first = [torch.randn(2, 3, 4, 4, generator=generator).requires_grad_() for _ in range(3)]
    second = [item.detach().clone().requires_grad_() for item in first]
    ours, plain = hard_mining_loss(targets, first, level=-30.0), flattened_cosine_loss(targets, second)
    ours.backward()  # type: ignore[no-untyped-call]
    plain.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(ours, plain)
    for a, b in zip(first, second, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


def test_targets_take_no_gradient() -> None:
    target, ours = torch.randn(1, 2, 2, 2).requires_grad_(), torch.randn(1, 2, 2, 2).requires_grad_()
    hard_mining_loss([target], [ours], level=-3.0).backward()  # type: ignore[no-untyped-call]
    assert target.grad is None
    assert ours.grad is not None


def test_loss_averages_both_directions() -> None:
    model = _small().train()
    encoded = model.encode(_batch())
    targets, rebuilt, _ = model._rebuild(encoded)
    frozen = flattened_cosine_loss(targets[:3], rebuilt[:3])
    trained = flattened_cosine_loss(targets[3:], rebuilt[3:])
    loss = model.loss_on(encoded, progress=0.0)
    assert loss.item() == pytest.approx((frozen.item() + trained.item()) / 2, rel=1e-6)


def test_each_half_is_rebuilt_from_the_other_encoder() -> None:
    model = _small().eval()
    images, *frozen = model.encode(_batch())
    with torch.no_grad():
        _, before, _ = model._rebuild([images, *frozen])
        _, after, _ = model._rebuild([images, *[2 * feature for feature in frozen]])
    # The frozen features feed the second half only, which is held against the trained encoder.
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before[3:], after[3:], strict=True))


def test_what_learns_and_what_does_not() -> None:
    model = _small().train()
    model.training_loss(_batch(), progress=1.0).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    groups = model.parameter_groups()
    assert [group.get("lr") for group in groups] == [None, 1e-5]
    assert all(group["amsgrad"] and group["eps"] == 1e-10 for group in groups)
    learning = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in learning}) == len(learning)
    assert {id(p) for p in model.parameters()} - {id(p) for p in learning} == {
        id(p) for p in model.encoder.parameters()
    }
    assert any(
        parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in groups[1]["params"]
    )


def test_batch_statistics_of_both_encoders_stay() -> None:
    model = _small().train()
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model.training_loss(_batch())
    for name, value in model.named_buffers():
        if name.startswith(("encoder", "trained.")) and name in before:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("tap", "shape"), [("frozen", (2, 512, 2, 2)), ("encoder", (2, 256, 4, 4))])
def test_six_maps_and_the_tap(tap: str, shape: tuple[int, ...]) -> None:
    model = _small(tap=tap).eval()
    with torch.no_grad():
        maps, tapped = model(_batch())
    assert [tuple(item.shape[1:]) for item in maps] == 2 * [(16, 16), (8, 8), (4, 4)]
    assert [side for side, _ in model.map_grid(64)] == 2 * [16, 8, 4]
    assert tapped.shape == shape
    assert tapped.shape[1] == model.bottleneck_channels
    assert all(item.min() >= 0 and item.max() <= 2 for item in maps)


def test_frozen_and_trained_taps_differ() -> None:
    frozen, trained = _small(tap="frozen").eval(), _small(tap="trained").eval()
    with torch.no_grad():
        next(iter(frozen.trained.parameters())).mul_(1.5)
        trained.load_state_dict(frozen.state_dict())
        assert not torch.equal(frozen(_batch())[1], trained(_batch())[1])


def test_unknown_tap_is_refused() -> None:
    with pytest.raises(ConfigError, match="option tap 'both' came; wanted one of frozen, trained, encoder"):
        _small(tap="both")
