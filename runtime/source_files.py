"""Frames of image files: finding them, ordering them, reading them."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.images import IMAGE_SUFFIXES, is_image
from cada_edge.runtime.live_address import is_address, shown
from cada_edge.runtime.source_base import Frame, OnError, Source, read_frame

__all__ = ["FileSource", "describe_missing", "find_images", "match_images", "natural_key", "read_list"]

_LISTED = 5


class FileSource(Source):
    """Image files, each read when its turn comes."""

    lends_images = False

    def __init__(self, paths: Sequence[Path], *, source_id: str, on_error: OnError = "raise") -> None:
        super().__init__(source_id, on_error=on_error)
        self._paths = paths

    @property
    def length(self) -> int:
        """Number of files."""
        return len(self._paths)

    def _read(self) -> Frame | ImageReadError | None:
        if self._position >= len(self._paths):
            return None
        return read_frame(self._paths[self._position], self._position, self.source_id)


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sort key under which frame2.png comes before frame10.png, in every folder of the path."""
    # Text and digits alternate, text first: strings only meet strings, numbers only numbers.
    parts = (
        tuple(int(piece) if number % 2 else piece for number, piece in enumerate(re.split(r"(\d+)", part)))
        for part in path.parts
    )
    return tuple(parts), str(path)


def find_images(folder: Path) -> list[Path]:
    """Find the images in a folder and all below it, in natural order.

    Hidden files and folders (a dot first) and files without an image's extension are left out; linked
    folders are followed, each real folder once.

    Args:
        folder: An existing folder.

    Raises:
        SourceError: There is no image, or a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(
            f"The folder {error.filename} cannot be listed: {error.strerror}; wanted to read its images. "
            "Check its permissions."
        ) from error

    images: list[Path] = []
    others: list[str] = []
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(Path(root, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        for name in files:
            if name.startswith("."):
                continue
            if is_image(Path(name)):
                images.append(Path(root, name))
            else:
                others.append(name)
    if not images:
        raise SourceError(
            f"The folder {folder} holds no image: {_listing(others)}. Wanted at least one of "
            f"{', '.join(IMAGE_SUFFIXES)}, in it or below it. Name another folder; open videos one by one."
        )
    return sorted(images, key=lambda path: natural_key(path.relative_to(folder)))


def match_images(pattern: str) -> list[Path]:
    """Find the images that a glob pattern matches, in natural order; ``**`` goes into folders.

    Args:
        pattern: As for `glob.glob`: hidden files only match a pattern with the dot.

    Raises:
        SourceError: No image matches.
    """
    # pathlib's own glob takes no absolute pattern and lists hidden files.
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    files = [path for path in found if path.is_file()]
    images = [path for path in files if is_image(path)]
    if images:
        return sorted(images, key=natural_key)
    if files:
        raise SourceError(
            f"The pattern {shown(pattern)} matches no image: {_listing([path.name for path in files])}. "
            f"Wanted at least one of {', '.join(IMAGE_SUFFIXES)}. Change the pattern; open videos one by one."
        )
    folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    where = f"{folder} holds {_listing(_names(folder))}" if folder.is_dir() else describe_missing(folder)
    raise SourceError(
        f"The pattern {shown(pattern)} matches no file. {where}. Wanted at least one image. Correct the "
        "pattern; where a name itself holds [, ] or *, put it through glob.escape."
    )


def read_list(path: Path) -> list[Path]:
    """Read a list file: the path of an image a line, relative to the file.

    Args:
        path: UTF-8 text; empty lines and those that begin with # are passed over.

    Raises:
        SourceError: It cannot be read, names nothing, or names what is no image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"The list file {path} cannot be read: {error}; wanted UTF-8 text with the path of an image a "
            "line. Write it anew."
        ) from error
    named = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    named = [(number, line) for number, line in named if line and not line.startswith("#")]
    for number, line in named:
        if is_address(line):
            raise SourceError(
                f"Line {number} of {path} is the address {shown(line)}; wanted the path of an image "
                f"({', '.join(IMAGE_SUFFIXES)}). Cameras are sources of their own: pass them one by one, to "
                "detector.run(*cameras) or after the model to cada-edge predict."
            )
        if not is_image(Path(line)):
            raise SourceError(
                f"Line {number} of {path} is {shown(line)!r}; wanted the path of an image "
                f"({', '.join(IMAGE_SUFFIXES)}). Correct the line, or begin it with #."
            )
    if not named:
        raise SourceError(f"The list file {path} names no image; wanted one a line. Fill it.")
    return [path.parent / line for _, line in named]


def describe_missing(path: Path) -> str:
    """Say what is there instead of a path that does not exist, and which name may have been meant."""
    missing, parent = path, path.absolute().parent
    while not parent.is_dir() and parent != parent.parent:
        missing, parent = parent, parent.parent
    names = _names(parent)
    close = difflib.get_close_matches(missing.name, names, n=1)
    guess = f", did you mean {str(parent / close[0])!r}?" if close else ""
    return f"There is no {shown(str(path))}; {parent} holds {_listing(names)}{guess}"


def _names(folder: Path) -> list[str]:
    """List a folder for a message; one that cannot be listed shows as empty."""
    try:
        return sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError:
        return []


def _listing(names: Sequence[str]) -> str:
    if not names:
        return "nothing to be seen"
    shown = ", ".join(repr(name) for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown
