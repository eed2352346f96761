from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.errors import ImageReadError, OutputError
from cada_edge.runtime.images import IMAGE_SUFFIXES, is_image, read_image, read_mask, write_image

SMOOTH = np.random.default_rng(0).integers(0, 256, (150, 121, 3), np.uint8)
cv2.GaussianBlur(SMOOTH, (0, 0), 2, dst=SMOOTH)

ENCODINGS = {
    "png": (".png", []),
    "bmp": (".bmp", []),
    "webp": (".webp", []),
    "tiff": (".tif", []),
    "tiff-uncompressed": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    "jpeg": (".jpg", []),
    "jpeg-progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "jpeg-restart": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
}


def encode(suffix: str, image: np.ndarray, options: list[int] | None = None) -> bytes:
    encoded, data = cv2.imencode(suffix, image, options or [])
    assert encoded
    return bytes(data.tobytes())


def with_thumbnail(jpeg: bytes) -> bytes:
    """Put a small JPEG, with its own end-of-image marker, into an APP1 segment, as cameras do."""
    payload = b"Exif\0\0" + encode(".jpg", SMOOTH[:16, :16])
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def test_suffixes_are_compared_without_case() -> None:
    assert all(
        is_image(Path(f"a{suffix.upper()}")) and is_image(Path(f"a{suffix}")) for suffix in IMAGE_SUFFIXES
    )
    assert not is_image(Path("Thumbs.db"))
    assert not is_image(Path("png"))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".PNG"])
@pytest.mark.parametrize("name", ["plain", "Prüfteil 7 – 部品"])
def test_lossless_files_come_back_as_written(tmp_path: Path, name: str, suffix: str) -> None:
    path = write_image(tmp_path / f"{name}{suffix}", SMOOTH)
    np.testing.assert_array_equal(read_image(path), SMOOTH)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_lossy_files_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    image = read_image(write_image(tmp_path / f"a{suffix}", SMOOTH))
    assert image.shape == SMOOTH.shape
    assert np.abs(image.astype(int) - SMOOTH).mean() < 4


def test_grey_alpha_and_16_bits_become_bgr(tmp_path: Path) -> None:
    grey = np.array([[0, 1, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "grey.png", grey)), np.dstack([grey] * 3))

    bgra = np.dstack([SMOOTH, np.zeros(SMOOTH.shape[:2], np.uint8)])
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "bgra.png", bgra)), SMOOTH)

    deep = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    (tmp_path / "deep.tif").write_bytes(encode(".tif", deep))
    assert read_image(tmp_path / "deep.tif")[0, :, 1].tolist() == [0, 0, 1, 1, 255]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_truncated_file_is_refused(tmp_path: Path, encoding: str, share: float) -> None:
    suffix, options = ENCODINGS[encoding]
    data = encode(suffix, SMOOTH, options)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == SMOOTH.shape

    path.write_bytes(data[: min(int(len(data) * share), len(data) - 8)])
    with pytest.raises(ImageReadError, match=rf"cut\{suffix} .*truncated.*[Cc]opy it again"):
        read_image(path)


@pytest.mark.parametrize("missing_bytes", [1, 2, 40, 1500])
def test_a_thumbnail_does_not_hide_a_truncation(tmp_path: Path, missing_bytes: int) -> None:
    data = with_thumbnail(encode(".jpg", SMOOTH))
    path = tmp_path / "camera.jpg"
    path.write_bytes(data)
    assert read_image(path).shape == SMOOTH.shape

    path.write_bytes(data[:-missing_bytes])
    with pytest.raises(ImageReadError, match="truncated"):
        read_image(path)


def test_a_jpeg_cut_within_its_thumbnail_is_refused(tmp_path: Path) -> None:
    data = with_thumbnail(encode(".jpg", SMOOTH))
    for length in (2, 3, 5, 60, 400):
        (tmp_path / "camera.jpg").write_bytes(data[:length])
        with pytest.raises(ImageReadError, match="truncated"):
            read_image(tmp_path / "camera.jpg")


def test_bytes_after_the_end_and_fillers_do_not_matter(tmp_path: Path) -> None:
    jpeg = encode(".jpg", SMOOTH)
    filled = jpeg[:2] + b"\xff\xff\xff" + jpeg[2:]
    for name, data in (
        ("filled.jpg", filled),
        ("longer.jpg", jpeg + b"\0" * 99),
        ("two.jpg", jpeg + jpeg[:70]),
    ):
        (tmp_path / name).write_bytes(data)
        assert read_image(tmp_path / name).shape == SMOOTH.shape
    (tmp_path / "longer.png").write_bytes(encode(".png", SMOOTH) + b"more")
    np.testing.assert_array_equal(read_image(tmp_path / "longer.png"), SMOOTH)


def test_masks_count_every_label(tmp_path: Path) -> None:
    for label in (1, 4, 255):
        path = write_image(tmp_path / f"{label}.png", np.array([[0, label], [0, 0]], np.uint8))
        assert read_mask(path).tolist() == [[0, 1], [0, 0]]
        assert read_mask(path).dtype == np.uint8
    colour = np.zeros((1, 2, 4), np.uint8)
    colour[..., 3] = 255
    colour[0, 1, 2] = 1
    assert read_mask(write_image(tmp_path / "colour.png", colour)).tolist() == [[0, 1]]
    (tmp_path / "deep.png").write_bytes(encode(".png", np.array([[0, 256]], np.uint16)))
    assert read_mask(tmp_path / "deep.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_unusable_files_are_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(
        ImageReadError, match=r"Cannot read the image .*gone\.png: No such file.*Check the path"
    ):
        read(tmp_path / "gone.png")
    with pytest.raises(ImageReadError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageReadError, match=r"empty\.png is empty \(0 bytes\)"):
        read(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(
        ImageReadError, match=r"text\.jpg \(12 bytes\) cannot be decoded.*Wanted one of \.bmp"
    ):
        read(tmp_path / "text.jpg")


def test_floating_point_pixels_are_refused_with_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "colour.tif").write_bytes(encode(".tif", np.zeros((3, 3, 3), np.float32)))
    with pytest.raises(
        ImageReadError, match=r"colour\.tif cannot be used\. A frame of dtype float32 came; wanted"
    ):
        read_image(tmp_path / "colour.tif")
    # OpenCV itself refuses to make colours of a grey one, in its versions' own words.
    (tmp_path / "heights.tif").write_bytes(encode(".tif", np.zeros((3, 3), np.float32)))
    with pytest.raises(ImageReadError, match=r"image .*heights\.tif"):
        read_image(tmp_path / "heights.tif")


def test_writing_says_what_it_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"named a\.gif: wanted one of .*Change the extension"):
        write_image(tmp_path / "a.gif", SMOOTH)
    with pytest.raises(OutputError, match=r"shape \(3, 3, 2\), uint8 as a\.png; wanted uint8 .*Convert it"):
        write_image(tmp_path / "a.png", np.zeros((3, 3, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_an_image_too_large_to_decode_is_named(tmp_path: Path) -> None:
    # A PNG whose header declares 100,000 x 100,000 pixels, as a decompression bomb does.
    png = encode(".png", SMOOTH)
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + png[24:29]
    (tmp_path / "bomb.png").write_bytes(png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:])
    with pytest.raises(ImageReadError, match=r"refuses to decode the image .*bomb\.png .*Make it smaller"):
        read_image(tmp_path / "bomb.png")


def test_a_photograph_is_turned_as_its_exif_entry_says(tmp_path: Path) -> None:
    upright = encode(".jpg", SMOOTH[:16, :24])
    # A little-endian TIFF header, one entry: orientation (0x0112), short, one value: 6, turn right.
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    payload = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    path = tmp_path / "phone.jpg"
    path.write_bytes(upright[:2] + segment + upright[2:])
    image = read_image(path)
    assert image.shape == (24, 16, 3)
    np.testing.assert_array_equal(image, cv2.imread(str(path)))
