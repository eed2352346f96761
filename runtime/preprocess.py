"""From a camera frame to the network's input bytes: the one definition that trainer and runtime share.

The network itself takes uint8 BGR; colour order and normalisation are constants of the exported graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import FrameError, MissingExtraError
from cada_edge.runtime.pil_bilinear import resize_pil_bilinear

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "RESIZES",
    "RESIZE_NAME",
    "camera_batch",
    "load_cv2",
    "preprocess",
    "preprocess_batch",
    "resize",
    "to_bgr",
]

RESIZE_NAME = "cv2-area-linear"
"""Name of `resize` in configurations and manifests."""

_WANTED = "uint8 or uint16 of shape (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA"


def load_cv2(feature: str = "Image processing") -> ModuleType:
    """Import OpenCV, or say how to install it.

    Args:
        feature: What needs it, for the message.

    Raises:
        MissingExtraError: OpenCV is not installed, or was built for another NumPy.
    """
    try:
        import cv2
    except ImportError as error:
        if "numpy" in str(error).lower():
            raise MissingExtraError(
                f"{feature} found an OpenCV that does not load with this NumPy ({error}) and",
                "numpy<2",
                "cpu",
            ) from error
        raise MissingExtraError(feature, "opencv-python", "cpu") from error
    return cv2


def to_bgr(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert a frame of any supported kind to uint8 BGR.

    Grey is repeated on three channels, an alpha channel is dropped, 16 bits are scaled by 1/257 so that
    65535 becomes 255 (a 12-bit camera in a 16-bit container must be shifted by the caller: the range is
    decided by the dtype, never guessed from pixel values).

    Args:
        frame: uint8 or uint16, (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, any strides.

    Returns:
        uint8 (H, W, 3), BGR, C-contiguous; the frame itself where it already is that.

    Raises:
        FrameError: Another type, dtype, shape or an empty frame.
    """
    if not isinstance(frame, np.ndarray):
        raise FrameError(
            f"A frame of type {type(frame).__name__} came; wanted a numpy array, {_WANTED}. "
            "Convert it with numpy.asarray, or pass a path to detector.stream."
        )
    if frame.dtype not in (np.uint8, np.uint16):
        raise FrameError(
            f"A frame of dtype {frame.dtype} came; wanted {_WANTED}. "
            "For floats in 0-1 pass (frame * 255).round().astype('uint8')."
        )
    channels = frame.shape[2] if frame.ndim == 3 else 1
    if frame.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise FrameError(
            f"A frame of shape {frame.shape} came; wanted {_WANTED}. "
            "For channels-first arrays pass frame.transpose(1, 2, 0); for several frames use detector.batch."
        )
    if frame.size == 0:
        raise FrameError(
            f"An empty frame of shape {frame.shape} came; wanted {_WANTED}, at least one pixel. "
            "Check that the camera delivered an image."
        )
    if frame.dtype == np.uint16:
        # (x + 128) // 257 is round(x / 257) for every 16-bit x, in integers and on every machine.
        frame = ((frame.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if channels == 1:
        frame = np.repeat(frame.reshape(frame.shape[0], frame.shape[1], 1), 3, axis=2)
    elif channels == 4:
        frame = frame[:, :, :3]
    return np.ascontiguousarray(frame, dtype=np.uint8)


def resize(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize without keeping the aspect ratio: shrink by area, then enlarge bilinearly.

    Axes longer than the target are shrunk first, in one INTER_AREA call that leaves the others alone
    (given an axis to enlarge, OpenCV's INTER_AREA would turn bilinear on both); what is shorter is then
    enlarged with INTER_LINEAR. uint8 after each step: the bytes are the same from OpenCV 4.5 to 5.0.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        size_hw: Height and width wanted, in pixels.

    Returns:
        uint8 (height, width) or (height, width, 3), C-contiguous; the image itself where the size fits.
    """
    height, width = size_hw
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    cv2 = load_cv2("Resizing frames")
    shrunk_hw = (min(image.shape[0], height), min(image.shape[1], width))
    if image.shape[:2] != shrunk_hw:
        image = cv2.resize(image, (shrunk_hw[1], shrunk_hw[0]), interpolation=cv2.INTER_AREA)
    if shrunk_hw != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


RESIZES: dict[str, Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]] = {
    RESIZE_NAME: resize,
    "pil-bilinear": resize_pil_bilinear,
}
"""Resizes by name. Cameras have the first; the other is that of the paper's code family, for comparisons."""


def preprocess(
    frame: NDArray[Any], size_hw: tuple[int, int], *, resize_name: str = RESIZE_NAME
) -> NDArray[np.uint8]:
    """Turn one frame into the network's input: `to_bgr`, then the resize.

    Args:
        frame: What `to_bgr` takes.
        size_hw: The model's input height and width, in pixels.
        resize_name: One of `RESIZES`.

    Returns:
        uint8 (height, width, 3), BGR, C-contiguous.

    Raises:
        FrameError: The frame cannot be used.
    """
    return RESIZES[resize_name](to_bgr(frame), size_hw)


def preprocess_batch(frames: list[NDArray[Any]], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Preprocess frames, each of its own size, into one batch.

    Args:
        frames: At least one frame.
        size_hw: The model's input height and width, in pixels.

    Returns:
        uint8 (N, height, width, 3), BGR.

    Raises:
        FrameError: There is no frame, or one cannot be used; the message names its position.
    """
    return _batch(frames, size_hw, preprocess)


def camera_batch(frames: list[NDArray[Any]], frame_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Put frames into one batch as they are, for a model that resizes them itself.

    Another size is refused rather than resized twice: its scores would not be those that were evaluated, and
    a camera that changed its resolution shows the part another way.

    Args:
        frames: At least one frame.
        frame_hw: The model's frame height and width, in pixels.

    Returns:
        uint8 (N, height, width, 3), BGR.

    Raises:
        FrameError: There is no frame, or one cannot be used or is of another size; the message names its
            position.
    """
    return _batch(frames, frame_hw, _unresized)


def _unresized(frame: NDArray[Any], frame_hw: tuple[int, int]) -> NDArray[np.uint8]:
    image = to_bgr(frame)
    if image.shape[:2] != frame_hw:
        got, wanted = (f"{height}x{width}" for height, width in (image.shape[:2], frame_hw))
        raise FrameError(
            f"A frame of {got} came; the model takes frames of {wanted} only, since it was exported with "
            f"--frame-size {wanted}. Set the camera to {wanted}, or export the checkpoint with --frame-size "
            f"{got}, or without --frame-size for frames of any size."
        )
    return image


def _batch(
    frames: list[NDArray[Any]],
    size_hw: tuple[int, int],
    prepare: Callable[[NDArray[Any], tuple[int, int]], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    if not frames:
        raise FrameError(
            "An empty batch came; wanted at least one frame. Skip the call when there is nothing to inspect."
        )
    if len(frames) == 1:
        # A view: at batch 1, the camera's case, no byte is copied twice.
        return prepare(frames[0], size_hw)[np.newaxis]
    batch = np.empty((len(frames), *size_hw, 3), np.uint8)
    for index, frame in enumerate(frames):
        try:
            batch[index] = prepare(frame, size_hw)
        except FrameError as error:
            raise FrameError(f"Frame {index} of the batch: {error}") from error
    return batch
