"""Opening anything that frames come from."""

from __future__ import annotations

import glob
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.errors import SourceError
from cada_edge.runtime.camera import CameraOptions, require_gstreamer
from cada_edge.runtime.ffmpeg_options import ffmpeg_options
from cada_edge.runtime.frame_buffer import DropPolicy
from cada_edge.runtime.images import is_image
from cada_edge.runtime.live_address import LiveAddress, parse_live, redact, refuse_mistyped, shown
from cada_edge.runtime.live_source import LiveSource, Reconnect
from cada_edge.runtime.preprocess import load_cv2
from cada_edge.runtime.source_ahead import ReadAheadSource
from cada_edge.runtime.source_base import Frame, OnError, Source
from cada_edge.runtime.source_files import (
    FileSource,
    describe_missing,
    find_images,
    match_images,
    read_list,
)
from cada_edge.runtime.source_iterable import IterableSource
from cada_edge.runtime.source_video import VideoSource
from cada_edge.runtime.stream_events import OnStatus

__all__ = ["Frame", "OnError", "Source", "open_source", "redact", "source_name"]

_WANTED = (
    "a camera, stream, image, folder, glob pattern, list file, video file, array, or iterable or callable of "
    "arrays and image paths"
)


def open_source(
    source: Any,
    *,
    on_error: OnError = "raise",
    source_id: str | None = None,
    policy: DropPolicy | None = None,
    capacity: int = 1,
    camera: CameraOptions | None = None,
    reconnect: Reconnect | None = None,
    on_status: OnStatus | None = None,
    changed: threading.Condition | None = None,
) -> Source:
    """Open a source of frames.

    Args:
        source: One of:

            - a live source: the index of a webcam (0, or '0' where no file has that name), '/dev/video0',
              'csi://0', an 'rtsp://', 'http://' or other URL that FFmpeg reads, or a GStreamer pipeline
              ('... ! appsink', also over several lines). It is opened in the background and again whenever
              it is lost;
            - the path of an image (by its extension) or of a video (any other file that OpenCV opens);
            - a folder: its images and those of all folders below, hidden ones left out, in natural order
              (frame2 before frame10);
            - a text file ending in .txt: the path of an image a line, relative to the file; empty lines and
              those that begin with # are passed over;
            - a glob pattern, in which ``**`` goes into folders: the images among its matches, in natural
              order. A path that exists is never taken for a pattern;
            - one array, (H, W) or (H, W, C);
            - an iterable of arrays, paths of images and `Frame` objects, mixed: a list, or a generator around
              a camera;
            - a function that returns the next of those at each call, and None at the end. With a policy, and
              in a run, arrays and frames of both are copied as they come: the same array may be filled again
              for the next one;
            - a source that is already open: it is returned as it is, and the other arguments do nothing.
        on_error: What happens when a frame that cannot be read is reached: "raise" raises `ImageReadError`,
            "skip" counts it in `Source.corrupt`, logs a warning and goes on. A live source always goes on.
        source_id: Name that the frames carry; by default that of `source_name`. A `Frame` of an iterable or
            function keeps its own; in a run it has this one, or where none is given its own.
        policy: What happens to frames that come faster than they are taken, as in
            `cada_edge.runtime.frame_buffer.DropPolicy`. None: "latest" for a live source; anything else is
            read when it is asked for, without a thread.
        capacity: Most frames that wait, with "block" and "drop-oldest".
        camera: How a live source is opened.
        reconnect: How it is opened again.
        on_status: Called with each event of a live source or of one with a policy, from a thread of it.
        changed: Notified whenever a frame comes, for one consumer of several sources.

    Returns:
        An iterator of frames and context manager. Files are looked for now and read when their turn comes.

    Raises:
        SourceError: There is nothing to read, or this version cannot read it.
        ConfigError: `on_error` is neither of the two, or policy and capacity do not fit.

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
    source_id = source_id or source_name(source)
    address = _live_address(source)
    if address is not None:
        # Waiting brings back a camera, never a package: what is missing is said now, not again and again.
        load_cv2("Reading cameras")
        if address.kind in ("csi", "gstreamer"):
            require_gstreamer(address.name)
        if address.kind == "network":
            ffmpeg_options.prepare()
        return LiveSource(
            address,
            source_id=source_id,
            camera=camera,
            reconnect=reconnect,
            policy=policy or "latest",
            capacity=capacity,
            on_status=on_status,
            changed=changed,
        )
    found = _open_at_rest(source, on_error, source_id)
    if policy is None:
        return found
    return ReadAheadSource(found, policy=policy, capacity=capacity, on_status=on_status, changed=changed)


def source_name(source: Any) -> str:
    """Return the name that a source has where none is given.

    Args:
        source: As for `open_source`.

    Returns:
        The path, the address without its secrets, or "array", "iterable" or "callable"; an open source's own.

    Raises:
        SourceError: An address that cannot be one.
    """
    if isinstance(source, Source):
        return source.source_id
    address = _live_address(source)
    if address is not None:
        return address.name
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, np.ndarray):
        return "array"
    return "iterable" if isinstance(source, Iterable) else "callable"


def _live_address(source: Any) -> LiveAddress | None:
    if isinstance(source, Path) and re.fullmatch(r"/dev/video\d+", str(source)):
        source = str(source)
    if isinstance(source, str) and source.strip().isdecimal() and not Path(source).exists():
        source = int(source)
    return parse_live(source)


def _open_at_rest(source: Any, on_error: OnError, source_id: str) -> Source:
    """Open what waits until its frames are asked for."""
    if isinstance(source, str | Path):
        return _open_path(source, on_error, source_id)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise SourceError(
                f"An array of shape {source.shape} came; wanted one frame, (H, W) or (H, W, C). "
                "For a batch of frames pass list(array)."
            )
        return IterableSource([source], source_id=source_id, length=1, on_error=on_error)
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | Mapping):
        length = len(source) if isinstance(source, Sequence) else None
        if length == 0:
            raise SourceError(
                f"An empty {type(source).__name__} came; wanted at least one frame. "
                "Check what was to fill it."
            )
        return IterableSource(source, source_id=source_id, length=length, on_error=on_error)
    if callable(source):
        return IterableSource(_call_until_none(source), source_id=source_id, on_error=on_error)
    raise SourceError(
        f"A source of type {type(source).__name__} came; wanted {_WANTED}. "
        "Pass a generator around what gives the frames."
    )


def _call_until_none(grab: Callable[[], Any]) -> Iterator[Any]:
    while (item := grab()) is not None:
        yield item


def _open_path(source: str | Path, on_error: OnError, source_id: str) -> Source:
    text = str(source)
    if not text or "\0" in text:
        refuse_mistyped(text)
        raise SourceError(
            f"The path {shown(text)!r} came; wanted {_WANTED}. Check how the path was put together."
        )
    path = Path(source)
    exists, failure = False, None
    try:
        exists = path.exists()
    except OSError as error:
        failure = error.strerror
    if not exists:
        refuse_mistyped(text)
        if failure is not None:
            # Not from the OSError, which names the path as it is.
            raise SourceError(
                f"The path {shown(text)} cannot be looked up: {failure}; wanted {_WANTED}. "
                "Check its length and its folders' permissions."
            )
        if glob.has_magic(text):
            return FileSource(match_images(text), source_id=source_id, on_error=on_error)
        raise SourceError(f"{describe_missing(path)}. Wanted {_WANTED}. Correct the path.")
    if path.is_dir():
        return FileSource(find_images(path), source_id=source_id, on_error=on_error)
    if not path.is_file():
        raise SourceError(f"{path} is neither a file nor a folder; wanted {_WANTED}. Name a regular file.")
    if is_image(path):
        return FileSource([path], source_id=source_id, on_error=on_error)
    if path.suffix.lower() == ".txt":
        return FileSource(read_list(path), source_id=source_id, on_error=on_error)
    if path.stat().st_size == 0:
        raise SourceError(f"The file {path} is empty (0 bytes); wanted an image or a video. Copy it again.")
    return VideoSource(path, source_id=source_id, on_error=on_error)
