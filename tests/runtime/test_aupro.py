from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.ndimage import label

from cada_edge.errors import InputError
from cada_edge.runtime.aupro import RegionScores, aupro
from cada_edge.runtime.metrics import PixelScores

Images = list[tuple[np.ndarray, np.ndarray]]


def by_brute_force(images: Images, limit: float) -> float:
    """Try every distinct score as the threshold, then integrate by trapezoids and cut at the limit."""
    maps = np.stack([image[0] for image in images]).astype(np.float64)
    masks = np.stack([image[1] for image in images]) > 0
    regions = []
    for index, mask in enumerate(masks):
        labels = np.zeros(mask.shape, np.int32)
        label(mask, np.ones((3, 3)), labels)
        regions += [maps[index][labels == number] for number in range(1, labels.max() + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        rates.append(float((maps[~masks] >= threshold).mean()))
        overlaps.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    fine = np.union1d(np.asarray(rates), [limit])
    fine = fine[fine <= limit]
    area = 0.0
    for left, right in itertools.pairwise(fine):
        # Of several overlaps at one rate, the highest starts the next trapezoid and the lowest ends one.
        start = max(over for rate, over in zip(rates, overlaps, strict=True) if rate == left)
        following = [(rate, over) for rate, over in zip(rates, overlaps, strict=True) if rate > left]
        rate, end = min(following)
        area += (right - left) * (start + (start + (end - start) * (right - left) / (rate - left))) / 2
    return area / limit


def measured(images: Images, limit: float) -> float | None:
    pixels, regions = PixelScores(), RegionScores()
    for anomaly_map, mask in images:
        pixels.append(anomaly_map, mask)
        regions.append(anomaly_map, mask)
    return aupro([regions], [pixels.negative], fpr_limit=limit)


def drawn_images(seed: int, *, levels: int | None) -> Images:
    rng = np.random.default_rng(seed)
    images: Images = []
    for index in range(5):
        mask = np.zeros((24, 20), np.uint8)
        if index:
            mask[2:5, 3 : 3 + 4 * index] = 1
            mask[10 : 11 + index, 8:11] = 255
            mask[22, 1] = 1
        anomaly_map = rng.normal(size=mask.shape) + 1.5 * (mask > 0)
        if levels is not None:
            anomaly_map = np.round(anomaly_map * levels) / levels
        images.append((anomaly_map.astype(np.float32), mask))
    return images


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 8, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_brute_force(seed: int, levels: int | None, limit: float) -> None:
    images = drawn_images(seed, levels=levels)
    assert measured(images, limit) == pytest.approx(by_brute_force(images, limit), abs=1e-9)


def test_perfect_reversed_and_constant_maps() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[2:4, 2:4] = 1
    assert measured([(mask.astype(np.float32), mask)], 0.3) == pytest.approx(1.0, abs=1e-12)
    assert measured([(1 - mask.astype(np.float32), mask)], 0.3) == pytest.approx(0.0, abs=1e-12)
    # A constant map is the diagonal: area limit ** 2 / 2 over limit.
    assert measured([(np.zeros((10, 10), np.float32), mask)], 0.3) == pytest.approx(0.15, abs=1e-12)


def test_small_defects_count_as_much_as_large_ones() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[:10, :10] = 1
    mask[15, 15] = 1
    anomaly_map = np.zeros((20, 20), np.float32)
    anomaly_map[15, 15] = 1.0
    # The small one is found at once, the large one along the diagonal: (1 + 0.15) / 2.
    assert measured([(anomaly_map, mask)], 0.3) == pytest.approx(0.575, abs=1e-12)


def test_pixels_that_touch_at_a_corner_are_one_defect() -> None:
    regions = RegionScores()
    mask = np.eye(6, dtype=np.uint8)
    regions.append(np.zeros((6, 6), np.float32), mask)
    assert regions.regions == 1
    assert regions.sizes[0].tolist() == [6] * 6


def test_groups_add_up_to_all_their_images() -> None:
    images = drawn_images(3, levels=4)
    pixels = PixelScores()
    groups = [RegionScores(), RegionScores()]
    for index, (anomaly_map, mask) in enumerate(images):
        pixels.append(anomaly_map, mask)
        groups[index % 2].append(anomaly_map, mask)
    assert aupro(groups, [pixels.negative]) == pytest.approx(by_brute_force(images, 0.3), abs=1e-9)


def test_none_without_defects_or_normal_pixels() -> None:
    good = np.zeros((4, 4), np.float32)
    assert measured([(good, np.zeros((4, 4), np.uint8))], 0.3) is None
    assert measured([(good, np.ones((4, 4), np.uint8))], 0.3) is None


@pytest.mark.parametrize("limit", [0.0, -0.3, 1.01, float("nan")])
def test_limit_out_of_range_is_refused(limit: float) -> None:
    with pytest.raises(
        InputError, match=r"AUPRO limit of .* wanted a false-positive rate above 0 and up to 1"
    ):
        aupro([], [], fpr_limit=limit)
