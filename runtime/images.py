"""Reading and writing of image files, with unicode paths and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import FrameError, ImageReadError, OutputError
from cada_edge.files import write_atomic
from cada_edge.runtime.live_address import shown
from cada_edge.runtime.preprocess import load_cv2, to_bgr

__all__ = ["IMAGE_SUFFIXES", "is_image", "read_image", "read_mask", "write_image"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Extensions taken for images, compared without regard to case."""


def is_image(path: Path) -> bool:
    """Tell whether a path has an image's extension."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _decode(path: Path, *, as_stored: bool) -> NDArray[Any]:
    cv2 = load_cv2("Reading images")
    # In colour OpenCV turns the image as its EXIF entry says, as cv2.imread does in an application.
    flags = cv2.IMREAD_UNCHANGED if as_stored else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        # Read by Python, decode by OpenCV: cv2.imread cannot open unicode paths on every system.
        data = path.read_bytes()
    except OSError as error:
        raise ImageReadError(
            f"Cannot read the image {shown(str(path))}: {error.strerror or error}. "
            "Check the path and its permissions."
        ) from error
    if not data:
        raise ImageReadError(
            f"The image {path} is empty (0 bytes). Wanted a whole image. Copy it again or remove it."
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageReadError(
            f"OpenCV refuses to decode the image {path} ({len(data)} bytes): {' '.join(str(error).split())}. "
            "Wanted one that fits in memory. Make it smaller or remove it."
        ) from error
    if image is None or _is_cut_jpeg(data):
        raise ImageReadError(
            f"The image {path} ({len(data)} bytes) cannot be decoded: it is damaged, truncated or no image. "
            f"Wanted one of {', '.join(IMAGE_SUFFIXES)}. Copy it again or remove it."
        )
    return np.asarray(image)


def _is_cut_jpeg(data: bytes) -> bool:
    """Tell whether a JPEG ends before its end-of-image marker; bytes after the marker do not matter.

    Of a truncated JPEG OpenCV before 4.11 makes up the missing part: grey, or (4.10) what was in memory.
    Truncated PNG, BMP, TIFF and WebP files are refused by every version since 4.5 itself.
    """
    if not data.startswith(b"\xff\xd8"):
        return False
    # Step over the segments up to the scan: a thumbnail inside one has an end-of-image marker of its own.
    at = 2
    while data[at : at + 2] != b"\xff\xda":
        if at + 4 > len(data):
            return True
        is_filler = data[at] != 0xFF or data[at + 1] == 0xFF
        at += 1 if is_filler else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    # Inside the scan every 0xff of the data is followed by 0x00.
    return data.rfind(b"\xff\xd9", at) < 0


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as a frame.

    Grey images are repeated on three channels, alpha is dropped, 16 bits become 8 as in `to_bgr`. A
    photograph is turned as its EXIF entry says, so that a file scores as the array that cv2.imread gives.

    Args:
        path: The file; any characters.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        ImageReadError: The file is missing, empty, truncated, no image, or of floating-point pixels.
    """
    try:
        return to_bgr(_decode(Path(path), as_stored=False))
    except FrameError as error:
        raise ImageReadError(f"The image {path} cannot be used. {error}") from error


def read_mask(path: str | Path) -> NDArray[np.uint8]:
    """Read a ground-truth mask; every pixel that is not 0 is anomalous.

    Args:
        path: The file; label numbers and grey levels alike count as anomalous.

    Returns:
        uint8 (H, W), 0 or 1, at the file's own size.

    Raises:
        ImageReadError: The file is missing, empty, truncated or no image.
    """
    image = _decode(Path(path), as_stored=True)
    if image.ndim == 3:
        # An alpha channel is no label.
        image = image[:, :, :3].max(axis=2)
    return np.asarray(image != 0, np.uint8)


def write_image(path: str | Path, image: NDArray[np.uint8]) -> Path:
    """Write an image file atomically; the extension chooses the format.

    Args:
        path: The file, with one of `IMAGE_SUFFIXES`; any characters.
        image: uint8 (H, W), (H, W, 3) BGR or (H, W, 4) BGRA.

    Returns:
        The path.

    Raises:
        OutputError: The extension is unknown or the disk does not take it.
    """
    path = Path(path)
    cv2 = load_cv2("Writing images")
    if not is_image(path):
        raise OutputError(
            f"Cannot write an image named {path.name}: wanted one of {', '.join(IMAGE_SUFFIXES)}. "
            "Change the extension."
        )
    try:
        encoded, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image))
    except cv2.error as error:
        raise _unwritable(path, image) from error
    if not encoded:
        raise _unwritable(path, image)
    return write_atomic(path, data.tobytes())


def _unwritable(path: Path, image: NDArray[np.uint8]) -> OutputError:
    return OutputError(
        f"OpenCV cannot write an image of shape {image.shape}, {image.dtype} as {path.name}; "
        "wanted uint8 (H, W), (H, W, 3) or (H, W, 4). Convert it, or choose another format."
    )
