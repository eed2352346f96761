"""Small data sets written to disk, one per layout, with names and extensions that trip a careless reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

PutImage = Callable[..., Path]

MASK_LABEL = 3
"""VisA's masks hold small label numbers, not 255."""


def _put_image(path: Path, *, value: int = 120, size_hw: tuple[int, int] = (12, 10)) -> Path:
    """Write a flat colour image with a brighter corner; the extension, in any case, chooses the format."""
    image = np.full((*size_hw, 3), value, np.uint8)
    image[0, 0] = 255
    return _encode(path, image)


def _put_mask(path: Path, *, label: int = 255) -> Path:
    mask = np.zeros((12, 10), np.uint8)
    mask[2:5, 3:6] = label
    return _encode(path, mask)


def _encode(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix.lower(), image)
    assert encoded
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def put_image() -> PutImage:
    """Write an image file: ``put_image(path, value=120, size_hw=(12, 10))``."""
    return _put_image


@pytest.fixture
def put_mask() -> PutImage:
    """Write a mask file: ``put_mask(path, label=255)``."""
    return _put_mask


@pytest.fixture
def mvtec_root(tmp_path: Path) -> Path:
    """Two categories in MVTec AD's layout; the sorted orders of images and masks differ."""
    root = tmp_path / "mvtec"
    for category in ("bottle", "Schraube grün"):
        for number in range(3):
            _put_image(root / category / "train/good" / f"{number:03}.png", value=100 + number)
        _put_image(root / category / "test/good/000.png")
        # Sorted, the images are 10, 2, 2B, 3 and the masks 10_mask, 2B_mask, 2_mask, 3.
        for stem, mask in (("10", "10_mask.png"), ("2", "2_mask.png"), ("2B", "2B_mask.PNG"), ("3", "3.png")):
            _put_image(root / category / "test/scratch" / f"{stem}.png")
            _put_mask(root / category / "ground_truth/scratch" / mask)
        _put_image(root / category / "test/dent/000.JPG")
        _put_mask(root / category / "ground_truth/dent/000_mask.png")
    (root / "readme.txt").write_text("not a category")
    (root / "bottle/train/good/Thumbs.db").write_bytes(b"no image")
    (root / "bottle/train/good/._000.png").write_bytes(b"what macOS leaves behind")
    (root / ".cache/train/good").mkdir(parents=True)
    return root


@pytest.fixture
def visa_root(tmp_path: Path) -> Path:
    """VisA's own layout with its three tables; masks hold label numbers."""
    root = tmp_path / "VisA"
    lines = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for number in range(4):
            image = f"{category}/Data/Images/Normal/{number:04}.JPG"
            _put_image(root / image)
            lines.append(f"{category},{'train' if number < 3 else 'test'},normal,{image},")
        for number in range(2):
            image, mask = (f"{category}/Data/{kind}/Anomaly/{number:03}" for kind in ("Images", "Masks"))
            _put_image(root / f"{image}.JPG")
            _put_mask(root / f"{mask}.png", label=MASK_LABEL)
            lines.append(f"{category},test,anomaly,{image}.JPG,{mask}.png")
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir()
    table.write_text("\n".join(lines) + "\n")
    # In the 2cls splits some anomalies are for training.
    anomalies_moved = table.read_text().replace("candle,test,anomaly", "candle,train,anomaly")
    for name in ("2cls_highshot", "2cls_fewshot"):
        table.with_name(f"{name}.csv").write_text(anomalies_moved)
    return root


@pytest.fixture
def visa_converted_root(tmp_path: Path) -> Path:
    """VisA in the MVTec-like form, with the level `1cls`."""
    root = tmp_path / "VisA_pytorch"
    for category in ("candle", "pcb1"):
        base = root / "1cls" / category
        for number in range(3):
            _put_image(base / "train/good" / f"{number:04}.JPG")
        _put_image(base / "test/good/0003.JPG")
        for number in range(2):
            _put_image(base / "test/bad" / f"{number:03}.JPG")
            _put_mask(base / "ground_truth/bad" / f"{number:03}.png", label=MASK_LABEL)
    return root


@pytest.fixture
def btad_root(tmp_path: Path) -> Path:
    """BTAD: .bmp and .png images, of which 03's masks are .bmp."""
    root = tmp_path / "BTech"
    for category, image_suffix, mask_suffix in (
        ("01", ".bmp", ".png"),
        ("02", ".png", ".png"),
        ("03", ".BMP", ".bmp"),
    ):
        for number in range(3):
            _put_image(root / category / "train/ok" / f"{number:04}{image_suffix}")
        _put_image(root / category / f"test/ok/0005{image_suffix}")
        for number in (7, 12):
            _put_image(root / category / "test/ko" / f"{number:04}{image_suffix}")
            _put_mask(root / category / "ground_truth/ko" / f"{number:04}{mask_suffix}")
    return root


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """A person's own parts, partly sorted into folders; not every defect has a mask."""
    root = tmp_path / "parts"
    _put_image(root / "normal/loose.png")
    _put_image(root / "normal/gear/a.jpeg")
    _put_image(root / "normal/gear/monday/deep/b.TIFF")
    _put_image(root / "normal/naïve 部品/c.webp")
    _put_image(root / "anomalous/gear/bent tooth/a.png")
    _put_image(root / "anomalous/scratch/a.png")
    _put_image(root / "anomalous/x.png")
    _put_mask(root / "masks/gear/bent tooth/a.png")
    _put_mask(root / "masks/scratch/a_mask.bmp")
    return root
