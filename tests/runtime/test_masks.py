from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cada_edge.errors import ConfigError, InputError
from cada_edge.runtime.masks import CONVENTIONS, resize_mask

SIZES = [
    ((1024, 1024), (256, 256)),
    ((900, 900), (256, 256)),
    ((700, 840), (224, 224)),
    ((1500, 1000), (256, 256)),
    ((511, 333), (128, 192)),
    ((97, 31), (64, 64)),
    ((20, 300), (60, 64)),
    ((256, 100), (256, 256)),
    ((100, 256), (256, 256)),
    ((1, 1), (5, 7)),
    ((7, 5), (1, 1)),
    ((64, 64), (64, 64)),
]


def drawn_mask(size_hw: tuple[int, int], seed: int) -> np.ndarray:
    """Blobs, single pixels and thin lines: what a resize can lose."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    mask = (rng.random(size_hw) < 0.002).astype(np.uint8)
    for _ in range(6):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        mask[
            top : top + int(rng.integers(1, height // 4 + 2)),
            left : left + int(rng.integers(1, width // 4 + 2)),
        ] = 1
    mask[int(rng.integers(height))] = 1
    mask[:, int(rng.integers(width))] = 1
    return mask


def by_pillow(mask: np.ndarray, size_hw: tuple[int, int], convention: str) -> np.ndarray:
    """Resize with Pillow, one axis a call: Pillow 13 no longer goes along the rows first in every case."""
    image = Image.fromarray(mask * np.uint8(255))
    kind = Image.Resampling.NEAREST if convention == "nearest" else Image.Resampling.BILINEAR
    across = image.resize((size_hw[1], mask.shape[0]), kind)
    grey = np.asarray(across.resize((size_hw[1], size_hw[0]), kind))
    return (grey > (127.5 if convention == "pil-bilinear>0.5" else 0)).astype(np.uint8)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("size_hw", "wanted_hw"), SIZES)
def test_equals_pillow_in_every_pixel(
    size_hw: tuple[int, int], wanted_hw: tuple[int, int], convention: str
) -> None:
    for seed in range(3):
        mask = drawn_mask(size_hw, seed)
        resized = resize_mask(mask, wanted_hw, convention)
        np.testing.assert_array_equal(resized, by_pillow(mask, wanted_hw, convention))
        assert resized.dtype == np.uint8
        assert resized.flags.c_contiguous


@pytest.mark.parametrize("size_hw", [(1024, 1024), (900, 900), (1000, 1500), (600, 800), (960, 1562)])
def test_equals_one_call_of_pillow_at_the_data_sets_sizes(size_hw: tuple[int, int]) -> None:
    mask = drawn_mask(size_hw, 5)
    grey = np.asarray(Image.fromarray(mask * np.uint8(255)).resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_mask(mask, (256, 256)), grey > 0)
    np.testing.assert_array_equal(resize_mask(mask, (256, 256), "pil-bilinear>0.5"), grey > 127.5)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equals_pillow_on_random_sizes_and_noise(convention: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        size_hw = (int(rng.integers(1, 200)), int(rng.integers(1, 200)))
        wanted_hw = (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
        mask = (rng.random(size_hw) < rng.choice([0.01, 0.3, 0.7])).astype(np.uint8)
        np.testing.assert_array_equal(
            resize_mask(mask, wanted_hw, convention), by_pillow(mask, wanted_hw, convention)
        )


def test_one_pixel_survives_only_the_default() -> None:
    mask = np.zeros((1024, 1024), np.uint8)
    mask[514, 702] = 1
    kept = {name: int(resize_mask(mask, (256, 256), name).sum()) for name in CONVENTIONS}
    assert kept == {"pil-bilinear>0": 3, "pil-bilinear>0.5": 0, "nearest": 1}


def test_label_numbers_and_grey_levels_count_alike() -> None:
    mask = drawn_mask((300, 200), 1)
    np.testing.assert_array_equal(resize_mask(mask * np.uint8(3), (64, 64)), resize_mask(mask, (64, 64)))


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_uniform_masks_stay_uniform(value: int, convention: str) -> None:
    resized = resize_mask(np.full((77, 301), value, np.uint8), (64, 32), convention)
    np.testing.assert_array_equal(resized, np.full((64, 32), value))


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bilinear' came; wanted one of pil-bilinear>0, .*nearest"):
        resize_mask(np.zeros((4, 4), np.uint8), (2, 2), "bilinear")


@pytest.mark.parametrize(("shape", "size_hw"), [((4, 4, 3), (2, 2)), ((0, 4), (2, 2)), ((4, 4), (0, 2))])
def test_shapes_that_cannot_be_resized_are_refused(shape: tuple[int, ...], size_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"A mask of shape .* wanted \(H, W\)"):
        resize_mask(np.zeros(shape, np.uint8), size_hw)
