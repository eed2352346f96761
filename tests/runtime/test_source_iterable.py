from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ImageReadError, SourceError
from cada_edge.runtime.sources import Frame, open_source

PutImage = Callable[..., Path]

GREY = np.full((5, 7), 9, np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        GREY,
        np.zeros((1, 1, 3), np.uint8),
        np.full((5, 7, 4), 255, np.uint8),
        np.full((5, 7), 65535, np.uint16),
        np.zeros((9, 11, 3), np.uint8)[::-2, ::3],
    ],
    ids=["grey", "one-pixel", "bgra", "16-bit", "strided"],
)
def test_one_array_is_one_frame_as_it_came(array: np.ndarray) -> None:
    source = open_source(array)
    assert source.length == 1
    (frame,) = source
    assert frame.image is array
    assert (frame.index, frame.source_id, frame.path) == (0, "array", None)
    assert next(open_source(array, source_id="cam 2")).source_id == "cam 2"


@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 7, 3)])
def test_an_array_that_is_not_one_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        SourceError, match=r"An array of shape \(.*\) came; wanted one frame, .* list\(array\)"
    ):
        open_source(np.zeros(shape, np.uint8))


def test_an_iterable_may_mix_arrays_paths_and_frames(tmp_path: Path, put_image: PutImage) -> None:
    first, second = put_image(tmp_path / "ü.bmp", value=1), put_image(tmp_path / "b.PNG", value=2)
    own = Frame(GREY, 41, "sdk", 1.0, 2.0)
    source = open_source([GREY, first, str(second), own])
    assert source.length == 4
    frames = list(source)
    assert frames[0].image is GREY
    assert [frame.path for frame in frames] == [None, first, second, None]
    assert [int(frame.image[-1, -1, 0]) for frame in frames[1:3]] == [1, 2]
    assert [frame.index for frame in frames] == [0, 1, 2, 41]
    assert frames[3] is own
    assert {frame.source_id for frame in frames[:3]} == {"iterable"}


def test_a_generator_is_asked_one_by_one_and_no_frame_is_kept() -> None:
    made: list[weakref.ref[np.ndarray]] = []

    def camera() -> Iterator[np.ndarray]:
        while True:
            image = np.zeros((4, 4, 3), np.uint8)
            made.append(weakref.ref(image))
            yield image
            del image

    source = open_source(camera())
    assert source.length is None
    assert len(made) == 0
    for number in range(1, 50):
        frame = next(source)
        assert len(made) == number
        assert frame.index == number - 1
        del frame
    gc.collect()
    assert sum(reference() is not None for reference in made[:-1]) == 0
    source.close()


def test_images_of_a_list_are_read_when_their_turn_comes(tmp_path: Path, put_image: PutImage) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    source = open_source(paths)
    for number, path in enumerate(paths):
        put_image(path, value=number)
        assert next(source).image[-1, -1, 0] == number
        path.unlink()
    assert list(source) == []


def test_closing_closes_a_generator() -> None:
    events: list[str] = []

    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield GREY
        finally:
            events.append("camera closed")

    with open_source(camera()) as source:
        next(source)
    assert events == ["camera closed"]


def test_errors_of_a_generator_pass_even_when_skipping() -> None:
    def camera(error: Exception) -> Iterator[np.ndarray]:
        yield GREY
        raise error

    for error in (OSError("cable out"), ImageReadError("not ours")):
        source = open_source(camera(error), on_error="skip")
        next(source)
        with pytest.raises(type(error), match=str(error)):
            next(source)
        assert source.corrupt == 0


def test_unreadable_images_in_a_list_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source([GREY, tmp_path / "gone.png", GREY], on_error="skip")
    assert [frame.index for frame in source] == [0, 2]
    assert source.corrupt == 1
    assert "gone.png" in caplog.text


@pytest.mark.parametrize("items", [[], ()])
def test_an_empty_list_is_refused(items: Any) -> None:
    with pytest.raises(SourceError, match=r"An empty (list|tuple) came; wanted at least one frame. Check"):
        open_source(items)


@pytest.mark.parametrize("source", [None, 1.5, b"a.png", {"a": GREY}])
def test_a_source_of_another_kind_is_refused(source: Any) -> None:
    with pytest.raises(SourceError, match=r"A source of type .* came; wanted a camera, .* Pass a generator"):
        open_source(source)


def test_an_item_of_another_kind_is_refused_even_when_skipping() -> None:
    source = open_source([GREY, [1, 2]], on_error="skip")
    next(source)
    with pytest.raises(
        SourceError, match=r"Item 1 of iterable is of type list; wanted numpy arrays, .* Convert"
    ):
        next(source)


def test_a_folder_within_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"Item 0 of iterable is the path .*; wanted image files .* by itself"
    ):
        next(open_source([tmp_path]))
