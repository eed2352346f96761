from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cada_edge.errors import TrainingError
from cada_edge.trainer.aligner import (
    ClassPredictor,
    Regressor,
    Statistics,
    build_aligner,
    class_statistics,
    guarded,
    range_floor,
    regression_loss,
    sigma_maximum,
    train_classifier,
    train_regressor,
)
from cada_edge.trainer.config import AlignerConfig


def test_loss_by_hand_on_both_branches_of_eq_4() -> None:
    # beta 0.1. u: errors 0.05 and 0.3 -> 0.05^2 / 0.2 = 0.0125 and 0.3 - 0.05 = 0.25, mean 0.13125.
    # g: errors 0 and 0.1 (the border: |y| < beta fails) -> 0 and 0.1 - 0.05 = 0.05, mean 0.025.
    predicted = torch.tensor([[0.05, 1.0], [0.3, 1.1]])
    loss = regression_loss(predicted, torch.zeros(2), torch.ones(2), beta=0.1)
    assert loss.item() == pytest.approx(0.13125 + 0.025, abs=1e-6)


def test_loss_is_the_sum_of_two_means() -> None:
    predicted = torch.tensor([[1.0, 3.0]])
    loss = regression_loss(predicted, torch.zeros(1), torch.zeros(1), beta=0.1)
    assert loss.item() == pytest.approx((1 - 0.05) + (3 - 0.05), abs=1e-6)


@pytest.mark.parametrize(
    ("convolutions", "kernel", "linears", "parameters"),
    [
        # C = 8, hidden 4: conv k*k*C*C, BatchNorm 2C, linears with bias.
        (1, 1, 2, 64 + 16 + (8 * 4 + 4) + (4 * 2 + 2)),
        (0, 1, 1, 8 * 2 + 2),
        (0, 1, 3, (8 * 4 + 4) + (4 * 4 + 4) + (4 * 2 + 2)),
        (2, 3, 2, 2 * (576 + 16) + (8 * 4 + 4) + (4 * 2 + 2)),
    ],
)
def test_bodies_of_table_3(convolutions: int, kernel: int, linears: int, parameters: int) -> None:
    config = AlignerConfig(convolutions=convolutions, kernel=kernel, linears=linears, hidden=4)
    regressor = Regressor(8, config)
    assert sum(item.numel() for item in regressor.parameters()) == parameters
    assert sum(isinstance(item, torch.nn.Dropout) for item in regressor.modules()) == linears
    assert regressor(torch.rand(3, 8, 2, 2)).shape == (3, 2)


def test_guard_and_floor() -> None:
    torch.testing.assert_close(
        guarded(torch.tensor([0.1, 0.5]), torch.tensor([0.4, 0.45]), 0.2), torch.tensor([0.3, 0.2])
    )
    statistics = Statistics(
        torch.zeros(101, 1, 1, 1), torch.zeros(101), torch.linspace(1, 2, 101), torch.zeros(101)
    )
    assert range_floor(statistics) == pytest.approx(1.01 / 2, abs=1e-6)


def test_class_statistics_are_means_of_means_and_of_maxima() -> None:
    statistics = Statistics(
        torch.zeros(3, 1, 1, 1), torch.tensor([0.1, 0.3, 0.9]), torch.tensor([1.0, 2.0, 5.0]), torch.ones(3)
    )
    table = class_statistics(statistics, ["nut", "nut", "bolt"])
    assert table["nut"] == pytest.approx((0.2, 1.5))
    assert table["bolt"] == pytest.approx((0.9, 5.0))


def test_sigma_statistics_are_those_of_all_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 6, 6, generator=generator) * torch.arange(1, 6)[:, None, None]
    statistics = Statistics(
        torch.zeros(5, 1, 1, 1), maps.mean((1, 2)), maps.amax((1, 2)), maps.std((1, 2), correction=0)
    )
    wanted = [float(image.mean() + 3 * image.numpy().std()) for image in maps]
    assert sigma_maximum(statistics).maximum.tolist() == pytest.approx(wanted, rel=1e-6)
    table = class_statistics(statistics, ["nut", "nut", "bolt", "nut", "bolt"], sigma=True)
    for name, rows in (("nut", [0, 1, 3]), ("bolt", [2, 4])):
        pixels = maps[rows].double().numpy()
        assert table[name] == pytest.approx((pixels.mean(), pixels.mean() + 3 * pixels.std()), rel=1e-6)


def test_class_predictor_looks_its_category_up() -> None:
    statistics = _separable()
    categories = ["bolt" if kind else "nut" for kind in (torch.arange(32) % 2).tolist()]
    table = {"nut": (0.1, 0.5), "bolt": (0.3, 1.0)}
    torch.manual_seed(0)
    predictor = ClassPredictor(8, AlignerConfig(), table)
    assert predictor.categories == ("bolt", "nut")
    loss = train_classifier(
        predictor, statistics.features, categories, AlignerConfig(iterations=200, learning_rate=0.02), seed=0
    )
    assert loss < 0.2
    assert not predictor.training
    with torch.no_grad():
        predicted = predictor(statistics.features)
    assert torch.equal(predicted, torch.tensor([table[name] for name in categories]))


@pytest.mark.parametrize(
    ("alignment", "kind"),
    [("cada", Regressor), ("cada-sigma", Regressor), ("class-predicted", ClassPredictor)],
)
def test_build_aligner(alignment: str, kind: type) -> None:
    built = build_aligner(alignment, 8, AlignerConfig(), {"nut": (0.1, 0.5)})
    assert type(built) is kind
    assert built(torch.zeros(3, 8, 2, 2)).shape == (3, 2)


def _separable(images: int = 32) -> Statistics:
    generator = torch.Generator().manual_seed(3)
    kinds = torch.arange(images) % 2
    features = torch.rand(images, 8, 2, 2, generator=generator) * 0.1 + kinds[:, None, None, None]
    return Statistics(features, 0.1 + 0.2 * kinds, 0.5 + 0.5 * kinds, 0.1 + 0.1 * kinds)


def _fetch(statistics: Statistics, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return statistics.features[rows], statistics.mean[rows], statistics.maximum[rows]


def test_regressor_learns_each_kinds_statistics() -> None:
    statistics = _separable()
    torch.manual_seed(0)
    regressor = Regressor(8, AlignerConfig())
    train_regressor(
        regressor, 32, lambda rows: _fetch(statistics, rows), AlignerConfig(iterations=400), seed=0
    )
    assert not regressor.training
    with torch.no_grad():
        predicted = regressor(statistics.features)
    wanted = torch.stack([statistics.mean, statistics.maximum], 1)
    assert (predicted - wanted).abs().max() < 0.08


def test_the_same_seed_gives_the_same_weights_whatever_torch_drew_before() -> None:
    statistics = _separable()
    weights = []
    for noise in (0, 7):
        torch.manual_seed(0)
        regressor = Regressor(8, AlignerConfig())
        torch.rand(noise)
        train_regressor(
            regressor, 32, lambda rows: _fetch(statistics, rows), AlignerConfig(iterations=5), seed=0
        )
        weights.append(torch.cat([item.flatten() for item in regressor.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_few_images_are_drawn_with_replacement() -> None:
    statistics = _separable(3)
    regressor = Regressor(8, AlignerConfig())
    sizes = []

    def fetch(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append(len(rows))
        return _fetch(statistics, rows)

    train_regressor(regressor, 3, fetch, AlignerConfig(iterations=2, batch_size=16), seed=0)
    assert sizes == [16, 16]


def test_one_image_alone_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"got 1 training image\(s\); wanted at least 2"):
        train_regressor(
            Regressor(8, AlignerConfig()), 1, lambda rows: _fetch(_separable(), rows), AlignerConfig(), seed=0
        )


def test_a_loss_that_is_not_finite_is_refused() -> None:
    statistics = Statistics(
        torch.full((4, 8, 2, 2), float("nan")), torch.zeros(4), torch.ones(4), torch.ones(4)
    )
    with pytest.raises(TrainingError, match="loss became nan at iteration 0"):
        train_regressor(
            Regressor(8, AlignerConfig()),
            4,
            lambda rows: _fetch(statistics, rows),
            AlignerConfig(iterations=1),
            seed=0,
        )
