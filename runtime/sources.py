"""Opening anything that frames come from."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.errors import SourceError
from cada_edge.runtime.images import is_image
from cada_edge.runtime.source_base import Frame, OnError, Source
from cada_edge.runtime.source_files import FileSource, describe_missing, find_images, match_images
from cada_edge.runtime.source_iterable import IterableSource
from cada_edge.runtime.source_video import VideoSource

__all__ = ["Frame", "OnError", "Source", "open_source", "redact"]

_WANTED = "an image, folder, glob pattern, video file, array, or iterable of arrays and image paths"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def open_source(source: Any, *, on_error: OnError = "raise", source_id: str | None = None) -> Source:
    """Open a source of frames.

    Args:
        source: One of:

            - the path of an image (by its extension) or of a video (any other file that OpenCV opens);
            - a folder: its images and those of all folders below, hidden ones left out, in natural order
              (frame2 before frame10);
            - a glob pattern, in which ``**`` goes into folders: the images among its matches, in natural
              order. A path that exists is never taken for a pattern;
            - one array, (H, W) or (H, W, C);
            - an iterable of arrays, paths of images and `Frame` objects, mixed: a list, or a generator around
              a camera;
            - a source that is already open: it is returned as it is, and the other arguments do nothing.
        on_error: What happens when a frame that cannot be read is reached: "raise" raises `ImageReadError`,
            "skip" counts it in `Source.corrupt`, logs a warning and goes on.
        source_id: Name that the frames carry; by default the path, or "array" or "iterable".

    Returns:
        An iterator of frames and context manager. Files are looked for now and read when their turn comes.

    Raises:
        SourceError: There is nothing to read, or this version cannot read it.
        ConfigError: `on_error` is neither of the two.

    Example:
        >>> import numpy as np
        >>> from cada_edge import open_source
        >>> with open_source([np.zeros((2, 3), np.uint8), np.ones((4, 5, 3), np.uint8)]) as frames:
        ...     for frame in frames:
        ...         frame
        Frame((2, 3) uint8, index=0, source_id='iterable')
        Frame((4, 5, 3) uint8, index=1, source_id='iterable')
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str | Path):
        return _open_path(source, on_error, source_id)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise SourceError(
                f"An array of shape {source.shape} came; wanted one frame, (H, W) or (H, W, C). "
                "For a batch of frames pass list(array)."
            )
        return IterableSource([source], source_id=source_id or "array", length=1, on_error=on_error)
    if isinstance(source, int):
        raise _live_error(f"The webcam index {source}")
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | Mapping):
        length = len(source) if isinstance(source, Sequence) else None
        if length == 0:
            raise SourceError(
                f"An empty {type(source).__name__} came; wanted at least one frame. "
                "Check what was to fill it."
            )
        return IterableSource(source, source_id=source_id or "iterable", length=length, on_error=on_error)
    raise SourceError(
        f"A source of type {type(source).__name__} came; wanted {_WANTED}. "
        "For a function that grabs frames pass a generator that calls and yields."
    )


def _open_path(source: str | Path, on_error: OnError, source_id: str | None) -> Source:
    text = str(source)
    if not text or "\0" in text:
        raise SourceError(f"The path {text!r} came; wanted {_WANTED}. Check how the path was put together.")
    if isinstance(source, str) and (_URL.match(text) or " ! " in text):
        if text.lower().startswith("file://"):
            raise SourceError(f"The URL {text} came; wanted a plain path. Leave file:// out.")
        raise _live_error(f"The stream {redact(text)}")
    path = Path(source)
    source_id = source_id or text
    if text.startswith("/dev/video"):
        raise _live_error(f"The camera {text}")
    try:
        exists = path.exists()
    except OSError as error:
        raise SourceError(
            f"The path {text} cannot be looked up: {error.strerror}; wanted {_WANTED}. "
            "Check its length and its folders' permissions."
        ) from error
    if not exists:
        if glob.has_magic(text):
            return FileSource(match_images(text), source_id=source_id, on_error=on_error)
        if text.isdecimal():
            raise _live_error(f"The webcam index {text}")
        raise SourceError(f"{describe_missing(path)}. Wanted {_WANTED}. Correct the path.")
    if path.is_dir():
        return FileSource(find_images(path), source_id=source_id, on_error=on_error)
    if not path.is_file():
        raise SourceError(f"{path} is neither a file nor a folder; wanted {_WANTED}. Name a regular file.")
    if is_image(path):
        return FileSource([path], source_id=source_id, on_error=on_error)
    if path.stat().st_size == 0:
        raise SourceError(f"The file {path} is empty (0 bytes); wanted an image or a video. Copy it again.")
    return VideoSource(path, source_id=source_id, on_error=on_error)


def _live_error(what: str) -> SourceError:
    return SourceError(
        f"{what} is a live source, which this version does not read; wanted {_WANTED}. Pass a generator "
        "around your camera: def frames(): while True: yield camera.grab()"
    )


def redact(url: str) -> str:
    """Replace what may be secret in a stream's address: the user and password, and the query."""
    return re.sub(r"\?\S*", "?***", re.sub(r"://\S*@", "://***@", url))
