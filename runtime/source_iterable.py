"""Frames of Python objects: arrays, paths of images and frames, from any iterable."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.images import IMAGE_SUFFIXES, is_image
from cada_edge.runtime.live_address import is_address, shown
from cada_edge.runtime.source_base import Frame, OnError, Source, read_frame, stamp

__all__ = ["IterableSource"]


class IterableSource(Source):
    """Arrays, paths of image files and frames, in any mixture, taken one by one.

    Frames pass as they are, with the index and times that their maker gave them, and the image is the maker's
    own array: an SDK's loop may fill the same one again for the next frame. Closing the source closes a
    generator, so that the ``finally`` around a camera's loop runs.
    """

    def __init__(
        self, items: Iterable[Any], *, source_id: str, length: int | None = None, on_error: OnError = "raise"
    ) -> None:
        super().__init__(source_id, on_error=on_error)
        self._items: Iterator[Any] = iter(items)
        self._length = length

    @property
    def length(self) -> int | None:
        """Number of items; None for an iterable that does not know it."""
        return self._length

    def _read(self) -> Frame | ImageReadError | None:
        try:
            item = next(self._items)
        except StopIteration:
            return None
        if isinstance(item, Frame):
            return item
        if isinstance(item, np.ndarray):
            return stamp(item, self._position, self.source_id, None)
        if isinstance(item, str | Path):
            if is_address(str(item)):
                raise SourceError(
                    f"Item {self._position} of {self.source_id} is the address {shown(str(item))}; wanted "
                    "numpy arrays, paths of images or Frames. Each camera is a source of its own: pass "
                    "several as several, detector.run(*cameras)."
                )
            path = Path(item)
            if not is_image(path):
                raise SourceError(
                    f"Item {self._position} of {self.source_id} is the path {shown(str(item))}; wanted image "
                    f"files ({', '.join(IMAGE_SUFFIXES)}). Open a folder, pattern or video by itself, with "
                    "cada_edge.open_source."
                )
            return read_frame(path, self._position, self.source_id)
        raise SourceError(
            f"Item {self._position} of {self.source_id} is of type {type(item).__name__}; wanted numpy "
            "arrays, paths of images or Frames. Convert images of other libraries to uint8 BGR arrays; "
            "cameras are sources of their own, detector.run(*cameras)."
        )

    def _release(self) -> None:
        if isinstance(self._items, Generator):
            self._items.close()
