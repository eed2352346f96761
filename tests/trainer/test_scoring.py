from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cada_edge.errors import ConfigError
from cada_edge.trainer.config import SmoothingConfig
from cada_edge.trainer.scoring import MapScorer, smoothing_matrix, top_count, top_mean, upsampling_matrix

SIDES = (16, 8, 4)
SIZE = 64


def _reference(maps: list[Tensor], mean: Tensor, spread: Tensor, *, padding: str) -> tuple[Tensor, Tensor]:
    """Upsample, average, align, smooth, top-k: each step by its torch operator, in float64."""
    full = [
        F.interpolate(item[:, None].double(), (SIZE, SIZE), mode="bilinear", align_corners=True)[:, 0]
        for item in maps
    ]
    aligned = (torch.stack(full).mean(0) - mean[:, None, None]) / spread[:, None, None]
    offsets = torch.arange(-2, 3, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / 4.0) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    mode = "constant" if padding == "zero" else "reflect"
    padded = F.pad(aligned[:, None], (2, 2, 2, 2), mode=mode)
    smoothed = F.conv2d(padded, kernel[None, None])[:, 0]
    count = int(0.01 * SIZE * SIZE)
    return smoothed.flatten(1).sort(descending=True).values[:, :count].mean(1), smoothed


def _maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, side, side, generator=generator) for side in SIDES]


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_scorer_equals_the_steps_one_by_one(padding: str) -> None:
    maps = _maps()
    mean, spread = torch.tensor([0.1, 0.4, -0.2]), torch.tensor([0.5, 1.5, 0.3])
    scorer = MapScorer(SIDES, SIZE, smoothing=SmoothingConfig(padding=padding), top_fraction=0.01)
    score, aligned = scorer(maps, mean, spread)
    wanted_score, wanted_map = _reference(maps, mean.double(), spread.double(), padding=padding)
    torch.testing.assert_close(aligned.double(), wanted_map, atol=1e-5, rtol=0)
    torch.testing.assert_close(score.double(), wanted_score, atol=1e-5, rtol=0)


def test_with_reflect_padding_alignment_and_smoothing_commute() -> None:
    maps = _maps()
    scorer = MapScorer(SIDES, SIZE, smoothing=SmoothingConfig(padding="reflect"), top_fraction=0.01)
    mean, spread = torch.tensor([0.1, 0.4, -0.2]), torch.tensor([0.5, 1.5, 0.3])
    _, aligned = scorer(maps, mean, spread)
    _, plain = scorer(maps, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(
        aligned, (plain - mean[:, None, None]) / spread[:, None, None], atol=2e-6, rtol=1e-5
    )


def test_with_zero_padding_only_the_outer_two_pixels_differ_from_that() -> None:
    maps = _maps()
    scorer = MapScorer(SIDES, SIZE, smoothing=SmoothingConfig(), top_fraction=0.01)
    mean, spread = torch.full((3,), 0.3), torch.full((3,), 0.5)
    _, aligned = scorer(maps, mean, spread)
    _, plain = scorer(maps, torch.zeros(3), torch.ones(3))
    difference = (aligned - (plain - 0.3) / 0.5).abs()
    assert difference[:, 2:-2, 2:-2].max() < 1e-5
    assert difference[:, 0].min() > 0.1


def test_raw_map_is_unsmoothed() -> None:
    maps = _maps()
    full = [F.interpolate(m[:, None], (SIZE, SIZE), mode="bilinear", align_corners=True)[:, 0] for m in maps]
    scorer = MapScorer(SIDES, SIZE, smoothing=SmoothingConfig(), top_fraction=0.01)
    torch.testing.assert_close(scorer.raw_map(maps), torch.stack(full).mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 5), (2, 7), (4, 4), (16, 64), (5, 3), (3, 1)])
def test_upsampling_rows_sum_to_one_and_equal_torch(inputs: int, outputs: int) -> None:
    matrix = upsampling_matrix(inputs, outputs)
    torch.testing.assert_close(matrix.sum(1), torch.ones(outputs, dtype=torch.float64))
    values = torch.rand(1, 1, inputs, 1, dtype=torch.float64)
    wanted = F.interpolate(values, (outputs, 1), mode="bilinear", align_corners=True)
    torch.testing.assert_close((matrix @ values[0, 0]), wanted[0, 0])


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [(256, 0.01, 655), (224, 0.01, 501), (256, 0.0, 1), (256, 0.001, 65), (8, 0.01, 1)],
)
def test_top_count(size: int, fraction: float, count: int) -> None:
    assert top_count(size, fraction) == count


def test_top_mean_with_ties_constants_and_negatives() -> None:
    maps = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[-3.0, -3.0], [-3.0, -3.0]], [[5.0, 2.0], [2.0, 2.0]]])
    torch.testing.assert_close(top_mean(maps, 2), torch.tensor([1.0, -3.0, 3.5]))


def test_a_kernel_larger_than_the_map_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel of 33 pixels came for maps of 8"):
        smoothing_matrix(8, SmoothingConfig(kernel=33))


def test_an_offset_of_half_a_cell_is_torchs_unaligned_interpolation() -> None:
    values = torch.rand(1, 1, 8, 1, dtype=torch.float64)
    wanted = F.interpolate(values, (64, 1), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(upsampling_matrix(8, 64, offset=3.5) @ values[0, 0], wanted)


@pytest.mark.parametrize("offset", [0.0, 3.5, 7.0])
def test_a_position_marks_the_pixel_it_is_centred_on(offset: float) -> None:
    matrix = upsampling_matrix(8, 64, offset=offset)
    for position in range(1, 7):
        column = matrix[:, position]
        centre = float((column * torch.arange(64)).sum() / column.sum())
        assert centre == pytest.approx(offset + 8 * position, abs=1e-9)
    # Beyond the outer positions they repeat.
    assert matrix[0, 0] == 1
    assert matrix.sum(1).tolist() == pytest.approx([1.0] * 64)


def test_the_scorer_uses_one_offset_a_map() -> None:
    maps = [torch.zeros(1, side, side) for side in SIDES]
    maps[0][0, 8, 3] = 3.0
    scorer = MapScorer(
        SIDES, SIZE, smoothing=SmoothingConfig(kernel=1), top_fraction=0.01, offsets=(0.0, 0.0, 0.0)
    )
    raw = scorer.raw_map(maps)[0]
    assert divmod(int(raw.argmax()), SIZE) == (8 * 4, 3 * 4)
    assert raw.max() == pytest.approx(1.0)
