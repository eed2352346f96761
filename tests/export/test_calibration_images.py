"""Which images the ranges of an INT8 model are taken from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.errors import ConfigError, DatasetError
from cada_edge.export.calibration_images import calibration_images
from cada_edge.runtime.datasets import load_images


def _put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((9, 7, 3), value, np.uint8)
    image[0, 0] = 255 - value
    cv2.imwrite(str(path), image)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Twenty images of two kinds of part, in folders of no layout."""
    for number in range(20):
        _put(tmp_path / "parts" / ("gear" if number < 10 else "nut") / f"{number:02}.png", 5 * number)
    return tmp_path / "parts"


def test_a_folder_of_images_at_any_depth(plain: Path) -> None:
    (plain / "notes.txt").write_text("no image")
    (plain / ".hidden.png").write_bytes(b"")
    found = calibration_images(plain, most=64)
    assert (len(found), found.found) == (20, 20)
    assert [path.name for path in found.paths] == [f"{number:02}.png" for number in range(20)]
    frames = list(found.frames((8, 6)))
    assert [frame.shape for frame in frames] == [(1, 8, 6, 3)] * 20
    np.testing.assert_array_equal(np.concatenate(frames), load_images(found.paths, (8, 6)))
    assert frames[3][0, 5, 3].tolist() == [15, 15, 15]


def test_fewer_are_chosen_evenly(plain: Path) -> None:
    found = calibration_images(plain, most=16)
    numbers = [int(path.stem) for path in found.paths]
    assert (len(numbers), numbers[0], numbers[-1], found.found) == (16, 0, 19, 20)
    assert max(np.diff(numbers)) == 2
    assert sum(number < 10 for number in numbers) == 8
    assert found.data_fingerprint != calibration_images(plain, most=17).data_fingerprint
    assert found.data_fingerprint == calibration_images(plain, most=16).data_fingerprint


def test_of_a_data_set_the_training_images_are_taken(tmp_path: Path) -> None:
    for number in range(16):
        _put(tmp_path / "normal" / f"{number}.png", number)
        _put(tmp_path / "test_normal" / f"{number}.png", number)
        _put(tmp_path / "anomalous" / f"{number}.png", number)
    found = calibration_images(tmp_path, most=64)
    assert {path.parent.name for path in found.paths} == {"normal"}
    assert len(found) == 16


def test_a_folder_of_data_sets_is_refused(tmp_path: Path) -> None:
    for number in range(16):
        _put(tmp_path / "line" / "normal" / f"{number}.png", number)
        _put(tmp_path / "line" / "anomalous" / f"{number}.png", number)
    with pytest.raises(DatasetError, match=r"fits no data set layout.*Did you mean .*line\?"):
        calibration_images(tmp_path, most=64)


def test_too_few_images(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gear has 10 images of good parts .* at least 16, better 64"):
        calibration_images(plain / "gear", most=64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty has 0 images of good parts .* with --calibration\."):
        calibration_images(tmp_path / "empty", most=64)
    with pytest.raises(ConfigError, match="15 calibration images came; wanted at least 16"):
        calibration_images(plain, most=15)


def test_images_that_cannot_be_read(plain: Path, tmp_path: Path) -> None:
    (plain / "gear" / "03.png").write_bytes(b"cut")
    (plain / "nut" / "12.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"cannot be read, 2 in all: .*03.png, .*12.png"):
        calibration_images(plain, most=64)
    with pytest.raises(DatasetError, match="none is not there; wanted a folder"):
        calibration_images(tmp_path / "none", most=64)
    with pytest.raises(DatasetError, match="is a file; wanted a folder"):
        calibration_images(plain / "gear" / "00.png", most=64)
