"""Annotated frames as files: images one by one, or a video. Each sink is used by one thread.

A file that is written cannot be taken back with the rest of a batch: `Sink.write` is all or nothing of one
picture, and their `Recorder` writes them one at a time.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.draw import draw
from cada_edge.runtime.images import write_image
from cada_edge.runtime.preprocess import load_cv2
from cada_edge.runtime.sink_base import Sink
from cada_edge.runtime.source_base import Frame

__all__ = ["VIDEO_SUFFIXES", "ImageSink", "Picture", "RejectSink", "VideoSink", "file_label", "make_folder"]

_REJECT_SUFFIX = ".reject.jpg"
"""Ends the name of every image that the size limit may delete: nothing else is ever touched."""

VIDEO_SUFFIXES = {".mkv": "MJPG", ".avi": "MJPG", ".mp4": "mp4v"}
"""Extension of a video -> its codec, one that every build of OpenCV's wheels writes."""

_SPARE_BYTES = 64 << 20
"""Free space below which no picture is written on: what is left is for verdicts, and OpenCV's writer of
videos says nothing of a full disk."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An annotated frame that is to be drawn and written."""

    path: Path
    """The image's file; a video has one for all of its frames."""
    detection: Detection
    """What to draw."""
    frame: Frame
    """What to draw on."""


class ImageSink(Sink[Picture]):
    """An image file for each picture, written whole or not at all; its folder is made with the first."""

    def name(self, frame: Frame, *, number: int = 1) -> Path:
        """Return the file that a frame's image goes to.

        The same frame of a file has the same name in every run; those of a camera carry their time, since its
        numbers begin anew with each run.

        Args:
            frame: Of one of the sources whose images go here.
            number: From 2 on it goes into the name: for a source whose images would have another's names.
        """
        if frame.path is not None:
            return self.path / f"{_counted(frame, number)}_{frame.path.stem}.jpg"
        return self.path / f"{_stamped(frame, number)}.jpg"

    def write(self, records: Sequence[Picture]) -> None:
        """Write each picture to its path; see `Sink.write`."""
        self.path.mkdir(parents=True, exist_ok=True)
        _require_space(self.path)
        for picture in records:
            write_image(picture.path, draw(picture.frame.image, picture.detection))

    def close(self) -> None:
        """Do nothing: no file stays open."""


class RejectSink(ImageSink):
    """Images of rejects, together within a size: the oldest make room for the newest."""

    def __init__(self, path: Path, *, limit_bytes: int | None) -> None:
        """Take stock of the rejects that the folder has from earlier runs.

        Args:
            path: The folder; made if it is not there. What is no reject of ours in it stays as it is.
            limit_bytes: Most bytes of all rejects in it, above 0; None for no limit.

        Raises:
            ConfigError: The limit is not above 0.
            OutputError: The folder cannot be made or read, or what is beyond the limit not be deleted.
        """
        if limit_bytes is not None and limit_bytes <= 0:
            raise ConfigError(
                f"A limit of {limit_bytes} bytes came; wanted more than 0, or None for no limit. "
                "Pass one that holds many images, as 10 GiB."
            )
        super().__init__(path)
        make_folder(path)
        self._limit = limit_bytes
        # Without a limit nothing is ever deleted, and a list of all rejects would only grow.
        self._kept: deque[tuple[Path, int]] = deque() if limit_bytes is None else deque(_rejects_in(path))
        self._total = sum(size for _, size in self._kept)
        try:
            self._make_room(0)
        except OSError as error:
            raise OutputError(
                f"The reject {error.filename} cannot be deleted: {error.strerror or error}; wanted to bring "
                f"those in {path} within {limit_bytes} bytes. Check the permissions, name another folder, or "
                "pass a higher --rejects-limit."
            ) from error

    def name(self, frame: Frame, *, number: int = 1) -> Path:
        """Return the file that a frame's image goes to: its time comes first, so that names sort by it."""
        return self.path / f"{_stamped(frame, number)}{_REJECT_SUFFIX}"

    def write(self, records: Sequence[Picture]) -> None:
        """Write each picture to its path, and delete the oldest ones beyond the limit."""
        for picture in records:
            super().write([picture])
            if self._limit is None:
                continue
            try:
                size = picture.path.stat().st_size
                self._make_room(size)
            except OSError:
                picture.path.unlink(missing_ok=True)
                raise
            self._kept.append((picture.path, size))
            self._total += size

    def _make_room(self, size: int) -> None:
        while self._limit is not None and self._kept and self._total + size > self._limit:
            path, freed = self._kept[0]
            path.unlink(missing_ok=True)
            self._kept.popleft()
            self._total -= freed


class VideoSink(Sink[Picture]):
    """One video of all annotated frames of a source; another frame size begins a part of its own.

    An .mkv or .avi can be read up to its last moments after the process was killed; an .mp4 cannot.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        """Check the name and the rate; the video begins with its first frame.

        Args:
            path: Ends with one of `VIDEO_SUFFIXES`. Where a file has that name the video goes to NAME-2, and
                so on: nothing is written over.
            fps: Frames a second at which it plays, above 0.

        Raises:
            ConfigError: Another extension, or a rate that is not above 0.
        """
        super().__init__(path)
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ConfigError(
                f"The video {path.name} has the extension {path.suffix!r}; wanted one of "
                f"{', '.join(VIDEO_SUFFIXES)}. Pass --save-video inspection.mkv."
            )
        if not fps > 0:
            raise ConfigError(f"A video of {fps} frames a second came; wanted a rate above 0, as 25.")
        self._fps = float(fps)
        self._cv2 = load_cv2("Writing videos")
        self._wanted = path
        self._writer: Any = None
        self._size: tuple[int, int] | None = None

    def write(self, records: Sequence[Picture]) -> None:
        """Append the pictures; see `Sink.write`."""
        _require_space(self.path.parent)
        for picture in records:
            image = draw(picture.frame.image, picture.detection)
            size = (image.shape[1], image.shape[0])
            writer = self._writer
            if writer is None or size != self._size or self._is_gone():
                self.close()
                writer = self._open(size)
            writer.write(image)

    def _open(self, size: tuple[int, int]) -> Any:
        names = (self._wanted.with_stem(f"{self._wanted.stem}-{part}") for part in itertools.count(2))
        self.path = next(path for path in itertools.chain([self._wanted], names) if not path.exists())
        codec = self._cv2.VideoWriter_fourcc(*VIDEO_SUFFIXES[self.path.suffix.lower()])
        # Absolute, so that FFmpeg takes no "name:" at the beginning for a protocol.
        writer = self._cv2.VideoWriter(str(self.path.absolute()), codec, self._fps, size)
        if not writer.isOpened():
            writer.release()
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass  # where the disk refuses this too, its own error says why
            raise OSError(f"OpenCV cannot write a video of {size[0]}x{size[1]} pixels to {self.path}")
        self._writer, self._size = writer, size
        self._remember()
        return writer

    def close(self) -> None:
        """End the video; see `Sink.close`."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.release()


def _require_space(folder: Path) -> None:
    if shutil.disk_usage(folder).free < _SPARE_BYTES:
        error = OSError(f"less than {_SPARE_BYTES >> 20} MiB are free on the disk of {folder}")
        error.errno = errno.ENOSPC
        raise error


def file_label(source_id: str) -> str:
    """Make a source's name one that every file system takes, at most 60 characters.

    Example:
        >>> file_label("rtsp://10.0.0.7:554/left door")
        'rtsp_10.0.0.7_554_left_door'
    """
    return re.sub(r"[^\w.-]+", "_", source_id).strip("._")[-60:] or "source"


def _counted(frame: Frame, number: int) -> str:
    # Before the source's part of the name, which may end in any number itself.
    return f"{frame.index:06d}" if number == 1 else f"{frame.index:06d}-{number}"


def _stamped(frame: Frame, number: int) -> str:
    captured = datetime.fromtimestamp(frame.captured_at_s, timezone.utc)
    label = file_label(frame.path.stem if frame.path is not None else frame.source_id)
    return f"{captured:%Y%m%dT%H%M%S.%fZ}_{_counted(frame, number)}_{label}"


def _rejects_in(folder: Path) -> list[tuple[Path, int]]:
    """List the folder's rejects with their sizes, oldest first."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry.name, entry.stat().st_size)
                for entry in entries
                if entry.name.endswith(_REJECT_SUFFIX)
                and not entry.name.startswith(".")
                and entry.is_file(follow_symlinks=False)
            )
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be read: {error.strerror or error}; wanted one for rejects. Check "
            "its permissions, or name another folder."
        ) from error
    return [(folder / name, size) for name, size in found]


def make_folder(folder: Path) -> None:
    """Make a folder, and write to it once.

    Raises:
        OutputError: It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions say little: the disk may be read-only, or belong to another machine.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written to: {error.strerror or error}. Check the path, its "
            "permissions and its disk, or name another folder."
        ) from error
