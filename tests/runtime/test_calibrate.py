from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.errors import ConfigError, ImageReadError, InputError, SourceError
from cada_edge.manifest import Manifest, manifest_path
from cada_edge.runtime.calibrate import calibrate


@pytest.fixture
def normals(tmp_path: Path) -> Path:
    """Nineteen flat grey images of 10, 20 .. 190: scores 10/255 .. 190/255."""
    folder = tmp_path / "normal"
    folder.mkdir()
    for number in range(1, 20):
        cv2.imwrite(str(folder / f"{number:02d}.png"), np.full((20, 20, 3), number * 10, np.uint8))
    return folder


def test_threshold_is_the_conformal_quantile_and_only_the_manifest_changes(
    tiny_model: Path, normals: Path
) -> None:
    model = tiny_model.read_bytes()
    before = Manifest.read(tiny_model)
    result = calibrate(tiny_model, normals, false_alarm_rate=0.1)
    # ceil(20 * 0.9) = 18th smallest of 19.
    assert result.threshold == pytest.approx(180 / 255, abs=1e-6)
    assert result.warning is None
    after = Manifest.read(tiny_model)
    assert tiny_model.read_bytes() == model
    assert after.threshold == result.threshold
    assert after.calibration == result.calibration
    assert (result.calibration.images, result.calibration.images_needed) == (19, 9)
    assert before.model_sha256 == after.model_sha256
    assert before.range_floor == after.range_floor


def test_too_few_images_give_the_maximum_and_a_warning(tiny_model: Path, normals: Path) -> None:
    result = calibrate(tiny_model, normals)
    assert result.threshold == pytest.approx(190 / 255, abs=1e-6)
    assert result.warning is not None
    assert result.calibration.supported_false_alarm_rate == pytest.approx(1 / 20)
    assert "199 are needed" in result.to_text()


def test_pixel_quantile(tiny_model: Path, normals: Path) -> None:
    result = calibrate(tiny_model, normals, false_alarm_rate=0.1, pixel_quantile=0.5)
    assert result.pixel_threshold == pytest.approx(100 / 255, abs=1e-6)
    assert Manifest.read(tiny_model).pixel_threshold == result.pixel_threshold
    with pytest.raises(ConfigError, match=r"pixel_quantile 1.5 came"):
        calibrate(tiny_model, normals, pixel_quantile=1.5)


def test_bad_images_leave_the_manifest_as_it_was(
    tiny_model: Path, normals: Path, tmp_path: Path, put_image: Callable[..., Path]
) -> None:
    text = manifest_path(tiny_model).read_text()
    with pytest.raises(SourceError):
        calibrate(tiny_model, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        calibrate(tiny_model, tmp_path / "empty")
    (normals / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        calibrate(tiny_model, normals)
    assert manifest_path(tiny_model).read_text() == text


def test_a_whole_data_set_is_refused(tiny_model: Path, mvtec_root: Path) -> None:
    text = manifest_path(tiny_model).read_text()
    with pytest.raises(InputError, match=r"is a whole data set \(mvtec layout\).*wanted normal images only"):
        calibrate(tiny_model, mvtec_root)
    assert manifest_path(tiny_model).read_text() == text


def test_an_impossible_rate_is_refused_before_anything_is_scored(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="false-alarm rate of 0 came"):
        calibrate(tiny_model, tmp_path / "never looked at", false_alarm_rate=0)


def test_frames_of_an_application(tiny_model: Path) -> None:
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]
    result = calibrate(tiny_model, frames, false_alarm_rate=0.3)
    assert result.threshold == pytest.approx(30 / 255, abs=1e-6)
    assert result.calibration.source == "frames of a list"
