from __future__ import annotations

import math

import pytest
import torch

from cada_edge.trainer.encoders import build_encoder
from cada_edge.trainer.revdist import RevDist, RevDistOptions, cosine_distance, flattened_cosine_loss


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_wide_resnet50_has_rd4ads_own_sizes() -> None:
    # Counted in RD4AD's published architecture, without the layers that it defines and never uses.
    encoder, _ = build_encoder("wide_resnet50_2", "random")
    model = RevDist(encoder, RevDistOptions(), size=64)
    assert _parameters(model.encoder) == 24_862_528
    assert _parameters(model.bottleneck) == 58_885_120
    assert _parameters(model.decoder) == 24_917_504
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_wide_resnet50_feature_shapes() -> None:
    encoder, _ = build_encoder("wide_resnet50_2", "random")
    model = RevDist(encoder, RevDistOptions(), size=64).eval()
    with torch.no_grad():
        maps, bottleneck = model(torch.zeros(1, 3, 256, 256))
    assert [tuple(item.shape) for item in maps] == [(1, 64, 64), (1, 32, 32), (1, 16, 16)]
    assert tuple(bottleneck.shape) == (1, 2048, 8, 8)


def test_activation_of_the_decoder_only() -> None:
    encoder, _ = build_encoder("resnet18", "random")
    gelu = RevDist(encoder, RevDistOptions(activation="gelu"), size=64)
    relu = RevDist(encoder, RevDistOptions(activation="relu"), size=64)
    assert {type(m).__name__ for m in gelu.decoder.modules()} & {"GELU", "ReLU"} == {"GELU"}
    assert {type(m).__name__ for m in relu.decoder.modules()} & {"GELU", "ReLU"} == {"ReLU"}
    assert {type(m).__name__ for m in gelu.bottleneck.modules()} & {"GELU", "ReLU"} == {"ReLU"}


def test_encoder_stays_in_eval_mode() -> None:
    encoder, _ = build_encoder("resnet18", "random")
    model = RevDist(encoder, RevDistOptions(), size=64).train()
    assert model.bottleneck.training
    assert not any(module.training for module in model.encoder.modules())


def test_cosine_distance_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2)  # positions (1, 0) and (0, 2)
    b = torch.tensor([[2.0, 0.0], [0.0, -1.0]]).reshape(1, 2, 1, 2)  # positions (2, 0) and (0, -1)
    torch.testing.assert_close(cosine_distance(a, b), torch.tensor([[[0.0, 2.0]]]))
    zero = torch.zeros(1, 2, 1, 1)
    torch.testing.assert_close(cosine_distance(zero, zero), torch.ones(1, 1, 1))


def test_loss_flattens_before_the_cosine() -> None:
    # Flattened: cos = (3*4 + 0) / (3 * 5) = 0.8. Per position it would be 1 at one place and 0 at the other.
    a = torch.tensor([3.0, 0.0]).reshape(1, 1, 1, 2)
    b = torch.tensor([4.0, 3.0]).reshape(1, 1, 1, 2)
    assert flattened_cosine_loss([a], [b]).item() == pytest.approx(0.2, abs=1e-6)
    assert flattened_cosine_loss([a, a], [b, a]).item() == pytest.approx(0.2, abs=1e-6)
    two = flattened_cosine_loss([torch.cat([a, a])], [torch.cat([b, a])])
    assert two.item() == pytest.approx(0.1, abs=1e-6)  # a mean over the batch
    assert math.isfinite(two.item())


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    encoder, _ = build_encoder("resnet18", "random")
    model = RevDist(encoder, RevDistOptions(), size=64).train()
    images = torch.randn(4, 3, 64, 64)
    optimizer = torch.optim.AdamW(model.parameter_groups(), 2e-3)
    losses = []
    for _ in range(6):
        loss = model.training_loss(images)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
