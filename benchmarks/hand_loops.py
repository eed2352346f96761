"""Loops that a good programmer writes by hand to inspect a video, without any of this package's pipeline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cada_edge.runtime.preprocess import load_cv2

__all__ = ["LOOPS", "HandLoop"]

Prepare = Callable[[Any], Any]
"""A frame -> the engine's input."""
Infer = Callable[[Any], Any]
"""The engine's input -> whatever it gives."""
HandLoop = Callable[[Path, Prepare, Infer], tuple[int, tuple[int, int]]]
"""Video, preprocessing and engine -> number of frames, and their height and width."""


def _frames(video: Path) -> Iterator[Any]:
    capture = load_cv2("Reading videos").VideoCapture(str(video))
    while True:
        is_there, image = capture.read()
        if not is_there:
            capture.release()
            return
        yield image


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Let a thread run through an iterator, one item ahead."""
    waiting: queue.Queue[Any] = queue.Queue(1)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for item in items:
                waiting.put(item)
        except BaseException as error:
            errors.append(error)
        waiting.put(None)

    # A daemon: where the taker fails nobody takes its next item, and it must not hold up the end.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while (item := waiting.get()) is not None:
        yield item
    thread.join()
    if errors:
        raise errors[0]


def one_thread(video: Path, prepare: Prepare, infer: Infer) -> tuple[int, tuple[int, int]]:
    """Everything one after another."""
    count, shape = 0, (0, 0)
    for image in _frames(video):
        infer(prepare(image))
        count, shape = count + 1, image.shape[:2]
    return count, shape


def two_threads(video: Path, prepare: Prepare, infer: Infer) -> tuple[int, tuple[int, int]]:
    """Decode in a thread; preprocessing and engine in the main one."""
    count, shape = 0, (0, 0)
    for image in _ahead(_frames(video)):
        infer(prepare(image))
        count, shape = count + 1, image.shape[:2]
    return count, shape


def three_threads(video: Path, prepare: Prepare, infer: Infer) -> tuple[int, tuple[int, int]]:
    """Decode, preprocessing and engine in a thread each, as the run splits them."""
    count, shape = 0, (0, 0)
    decoded = _ahead(_frames(video))
    for size, pixels in _ahead((image.shape[:2], prepare(image)) for image in decoded):
        infer(pixels)
        count, shape = count + 1, size
    return count, shape


LOOPS: dict[str, HandLoop] = {
    "one thread": one_thread,
    "two threads": two_threads,
    "three threads": three_threads,
}
"""By their names."""
