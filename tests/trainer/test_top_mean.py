"""The top-k mean above TensorRT's limit: a bisection, held against a sorted mean in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cada_edge.trainer.scoring import TOP_K_LIMIT, top_count, top_mean, top_mean_by_bisection


def _sorted_mean(maps: Tensor, count: int) -> Tensor:
    return maps.double().flatten(1).sort(descending=True).values[:, :count].mean(1)


def _random(side: int) -> Tensor:
    return torch.rand(1, side, side, generator=torch.Generator().manual_seed(side))


def _with_outlier(maps: Tensor, value: float) -> Tensor:
    maps = maps.clone()
    maps[0, 3, 5] = value
    return maps


def _tied_at_k(side: int) -> Tensor:
    """Give the k-th highest value to 41 pixels, of which 21 belong to the k highest."""
    maps = _random(side)
    flat, count = maps.flatten(), top_count(side, 0.01)
    places = flat.argsort(descending=True)
    flat[places[count - 21 : count + 20]] = flat[places[count - 1]].clone()
    return flat.reshape(1, side, side)


CASES: dict[str, Callable[[int], Tensor]] = {
    "random": _random,
    "heavy-tailed": lambda side: (torch.erfinv(_random(side) * 1.999 - 0.9995) * 2).exp(),
    "coarse": lambda side: (_random(side) * 8).floor(),
    "mostly zero": lambda side: (_random(side) > 0.995).float(),
    "constant": lambda side: torch.full((1, side, side), 0.3),
    "zero": lambda side: torch.zeros(1, side, side),
    "negative": lambda side: -3 - _random(side),
    "negative constant": lambda side: torch.full((1, side, side), -0.7),
    "tie at k": _tied_at_k,
    **{
        f"outlier {value:g}": lambda side, value=value: _with_outlier(_random(side), value)  # type: ignore[misc]
        for value in (1e3, -1e3, 1e6, -1e6)
    },
    **{
        f"constant, outlier {value:g}": lambda side, value=value: _with_outlier(  # type: ignore[misc]
            torch.full((1, side, side), 0.3), value
        )
        for value in (1e3, -1e3, 1e6, -1e6)
    },
}


@pytest.mark.parametrize("side", [256, 640, 1024])
@pytest.mark.parametrize("case", list(CASES))
def test_it_equals_a_sorted_mean(case: str, side: int) -> None:
    maps, count = CASES[case](side), top_count(side, 0.01)
    wanted = _sorted_mean(maps, count)
    found = top_mean_by_bisection(maps, count)
    assert found.dtype == torch.float32
    assert float((found - wanted).abs()) <= 1e-6 * max(1.0, float(wanted.abs()))


@pytest.mark.parametrize("case", ["coarse", "constant", "zero", "negative constant"])
def test_ties_and_constants_are_exact(case: str) -> None:
    maps, count = CASES[case](640), top_count(640, 0.01)
    assert float(top_mean_by_bisection(maps, count)) == float(_sorted_mean(maps, count).float())


@pytest.mark.parametrize("count", [1, 2, 4095, 4096])
def test_any_count(count: int) -> None:
    maps = _random(64) - 0.5
    torch.testing.assert_close(
        top_mean_by_bisection(maps, count).double(), _sorted_mean(maps, count), atol=1e-6, rtol=0
    )


def test_each_map_of_a_batch_is_by_itself() -> None:
    maps = torch.cat([CASES[case](256) for case in CASES])
    alone = torch.cat([top_mean_by_bisection(item[None], 655) for item in maps])
    assert torch.equal(top_mean_by_bisection(maps, 655), alone)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_pixel_that_is_not_finite_gives_nan_for_its_map_alone(value: float) -> None:
    maps = torch.cat([_random(640), _random(640)])
    maps[0, 639, 639] = value
    found = top_mean(maps, top_count(640, 0.01))
    assert found.isnan().tolist() == [True, False]


def test_it_is_chosen_by_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert top_count(619, 0.01) <= TOP_K_LIMIT < top_count(620, 0.01)
    chosen: list[int] = []

    def bisection(maps: Tensor, count: int) -> Tensor:
        chosen.append(count)
        return maps[:, 0, 0]

    monkeypatch.setattr("cada_edge.trainer.scoring.top_mean_by_bisection", bisection)
    maps = _random(64)
    for count in (TOP_K_LIMIT, TOP_K_LIMIT + 1):
        top_mean(maps, count)
    assert chosen == [TOP_K_LIMIT + 1]
