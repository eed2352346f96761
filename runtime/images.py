"""Reading and writing of image files, with unicode paths and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ImageReadError, OutputError
from cada_edge.files import write_atomic
from cada_edge.runtime.preprocess import load_cv2, to_bgr

__all__ = ["IMAGE_SUFFIXES", "is_image", "read_image", "read_mask", "write_image"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Extensions taken for images, compared without regard to case."""


def is_image(path: Path) -> bool:
    """Tell whether a path has an image's extension."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def _decode(path: Path, flag_name: str) -> NDArray[Any]:
    cv2 = load_cv2("Reading images")
    try:
        # Read by Python, decode by OpenCV: cv2.imread cannot open unicode paths on every system.
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageReadError(
            f"Cannot read the image {path}: {error.strerror or error}. Check the path and its permissions."
        ) from error
    if data.size == 0:
        raise ImageReadError(f"The image {path} is empty (0 bytes). Copy it again or remove it.")
    image = cv2.imdecode(data, getattr(cv2, flag_name))
    if image is None:
        raise ImageReadError(
            f"The image {path} ({data.size} bytes) cannot be decoded: it is damaged, truncated or no image. "
            f"Wanted one of {', '.join(IMAGE_SUFFIXES)}. Copy it again or remove it."
        )
    return np.asarray(image)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as a frame.

    Grey images are repeated on three channels, alpha is dropped, 16 bits become 8 as in `to_bgr`.

    Args:
        path: The file; any characters.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        ImageReadError: The file is missing, empty, truncated or no image.
    """
    return to_bgr(_decode(Path(path), "IMREAD_UNCHANGED"))


def read_mask(path: str | Path) -> NDArray[np.uint8]:
    """Read a ground-truth mask; every pixel that is not 0 is anomalous.

    Args:
        path: The file; label numbers and grey levels alike count as anomalous.

    Returns:
        uint8 (H, W), 0 or 1, at the file's own size.

    Raises:
        ImageReadError: The file is missing, empty, truncated or no image.
    """
    image = _decode(Path(path), "IMREAD_UNCHANGED")
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
            f"Cannot write an image named {path.name}: wanted one of {', '.join(IMAGE_SUFFIXES)}. Change the extension."
        )
    encoded, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image))
    if not encoded:
        raise OutputError(f"OpenCV cannot encode an image of shape {image.shape}, {image.dtype} as {path.suffix}.")
    return write_atomic(path, data.tobytes())
