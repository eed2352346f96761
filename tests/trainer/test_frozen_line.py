"""The procedural line is frozen: every kind and defect looks as it did when its criteria were met.

`frozen_line.npz` holds, for each image of a small line, the mean colour of its squares of 8 pixels, and the
same of its mask, as commit 115ff2b drew them. Means, not hashes: processors may round a pixel's last bit.
Whoever means to change the drawings raises GENERATOR_VERSION, runs the criteria again (benchmarks/RESULTS.md)
and then writes the file anew: ``python tests/trainer/test_frozen_line.py``.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cada_edge.files import write_atomic
from cada_edge.trainer.synthetic import GENERATOR_VERSION, SyntheticConfig, write_line

FILE = Path(__file__).with_name("frozen_line.npz")
SMALL = SyntheticConfig(size=64, train_per_kind=1, test_normal_per_kind=1, test_anomalous_per_kind=4, seed=3)
SQUARE = 8


def summarise(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return each image's (8, 8) or (8, 8, 3) means over squares."""
    means = {}
    for path in sorted(folder.rglob("*.png")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        sides = (SMALL.size // SQUARE, SQUARE) * 2
        blocks = image.reshape(*sides, *image.shape[2:]).astype(np.float32)
        means[path.relative_to(folder).as_posix()] = blocks.mean(axis=(1, 3))
    return means


def test_the_line_is_the_frozen_one(tmp_path: Path) -> None:
    found = summarise(write_line(tmp_path / "line", SMALL))
    with np.load(FILE) as kept:
        assert set(found) == set(kept.files)
        assert len(found) == 10 * (2 + 4 + 4)
        for name, means in found.items():
            # A mask's pixel is 255 / 64 of its square's mean: one may lie elsewhere. 0.1 grey level of a
            # square is six pixels off by one.
            limit = 4.0 if "ground_truth" in name else 0.1
            np.testing.assert_allclose(means, kept[name], rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("strength", [3.4, 3.6])
def test_another_strength_would_be_seen(strength: float, tmp_path: Path) -> None:
    other = SyntheticConfig(**{**vars(SMALL), "defect_strength": strength})
    found = summarise(write_line(tmp_path / "line", other))
    with np.load(FILE) as kept:
        differences = {name: float(np.abs(means - kept[name]).max()) for name, means in found.items()}
    assert all(value <= 0.1 for name, value in differences.items() if "/good/" in name)
    changed = [name for name, value in differences.items() if value > 0.1 and "/good/" not in name]
    assert len(changed) > 10


def test_the_criteria_were_met_by_this_version() -> None:
    assert GENERATOR_VERSION == 2


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for image, means in summarise(write_line(Path(name) / "line", SMALL)).items():
                with archive.open(f"{image}.npy", "w") as entry:
                    np.save(entry, means)
        write_atomic(FILE, buffer.getvalue())
