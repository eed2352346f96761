from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cada_edge.runtime.pil_bilinear import resize_pil_bilinear
from cada_edge.runtime.preprocess import RESIZE_NAME, RESIZES, preprocess, resize


def _noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def _by_pillow(image: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize with Pillow, one axis a call: Pillow 13 no longer goes along the rows first in every case."""
    across = Image.fromarray(image).resize((size_hw[1], image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(across.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("shape", "size_hw"),
    [
        ((1024, 1024, 3), (256, 256)),
        ((900, 700, 3), (224, 224)),
        ((511, 333, 3), (64, 96)),
        ((40, 300, 3), (64, 64)),
        ((31, 17, 3), (64, 32)),
        ((64, 64, 3), (64, 64)),
        ((1, 1, 3), (3, 2)),
        ((333, 511), (64, 96)),
    ],
)
def test_equals_pillow_in_every_byte(shape: tuple[int, ...], size_hw: tuple[int, int]) -> None:
    image = _noise(*shape)
    resized = resize_pil_bilinear(image, size_hw)
    np.testing.assert_array_equal(resized, _by_pillow(image, size_hw))
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous


@pytest.mark.parametrize("size_hw", [(1024, 1024), (1000, 1500), (600, 800)])
def test_equals_one_call_of_pillow_at_the_data_sets_sizes(size_hw: tuple[int, int]) -> None:
    image = _noise(*size_hw, 3)
    wanted = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_pil_bilinear(image, (256, 256)), wanted)


def test_views_and_uniform_images() -> None:
    image = _noise(60, 80, 3)
    view = image[::-2, ::3, ::-1]
    np.testing.assert_array_equal(
        resize_pil_bilinear(view, (16, 16)), _by_pillow(np.ascontiguousarray(view), (16, 16))
    )
    for value in (0, 1, 255):
        uniform = np.full((77, 31, 3), value, np.uint8)
        assert (resize_pil_bilinear(uniform, (32, 64)) == value).all()


def test_preprocess_takes_it_by_name() -> None:
    frame = _noise(90, 120, 3)
    np.testing.assert_array_equal(
        preprocess(frame, (64, 64), resize_name="pil-bilinear"), _by_pillow(frame, (64, 64))
    )
    np.testing.assert_array_equal(preprocess(frame, (64, 64)), resize(frame, (64, 64)))
    assert list(RESIZES) == [RESIZE_NAME, "pil-bilinear"]
    # They differ, or nobody would need both.
    assert (preprocess(frame, (64, 64)) != preprocess(frame, (64, 64), resize_name="pil-bilinear")).any()
