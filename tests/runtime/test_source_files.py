from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cada_edge.errors import ConfigError, ImageReadError, SourceError
from cada_edge.runtime.source_base import Source
from cada_edge.runtime.source_files import find_images, natural_key
from cada_edge.runtime.sources import open_source

PutImage = Callable[..., Path]


def values(source: Source) -> list[int]:
    """Read a source to its end; the last pixel says which image it was."""
    return [int(frame.image[-1, -1, 0]) for frame in source]


@pytest.fixture
def parts(tmp_path: Path, put_image: PutImage) -> Path:
    """A folder with images in sub-folders, among files that are none."""
    root = tmp_path / "Teile ü 部品"
    for name, value in {
        "img10.png": 10,
        "img2.PNG": 2,
        "img1.bmp": 1,
        "sub2/a.png": 22,
        "sub10/a.tif": 210,
        "sub10/.hidden.png": 99,
        ".trash/a.png": 99,
    }.items():
        put_image(root / name, value=value)
    (root / "notes.txt").write_text("no image")
    return root


def test_an_image_is_one_frame(parts: Path) -> None:
    before_s, before_monotonic_s = time.time(), time.monotonic()
    source = open_source(parts / "img10.png")
    assert source.length == 1
    (frame,) = source
    assert frame.image.shape == (12, 10, 3)
    assert frame.image.dtype == np.uint8
    assert (frame.index, frame.source_id, frame.path) == (
        0,
        str(parts / "img10.png"),
        parts / "img10.png",
    )
    assert before_s <= frame.captured_at_s <= time.time()
    assert before_monotonic_s <= frame.captured_monotonic_s <= time.monotonic()
    assert repr(frame) == f"Frame((12, 10, 3) uint8, index=0, source_id={str(parts / 'img10.png')!r})"


def test_a_folder_comes_in_natural_order_with_what_is_below(parts: Path) -> None:
    with open_source(str(parts)) as source:
        assert source.length == 5
        frames = list(source)
    assert [int(frame.image[-1, -1, 0]) for frame in frames] == [1, 2, 10, 22, 210]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame.source_id for frame in frames} == {str(parts)}
    assert frames[-1].path == parts / "sub10/a.tif"


def test_natural_order_is_total() -> None:
    names = ["a/10", "a/2", "b2/x", "b10/x", "a2", "a02", "2", "A", "7b"]
    expected = ["2", "7b", "A", "a/2", "a/10", "a02", "a2", "b2/x", "b10/x"]
    assert [str(path) for path in sorted(map(Path, names), key=natural_key)] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", [10]),
        ("img*", [1, 2, 10]),
        ("img[0-2].*", [1, 2]),
        ("*/a.*", [22, 210]),
        ("**/*.png", [10, 22]),
        ("**", [1, 2, 10, 22, 210]),
    ],
)
def test_a_pattern_takes_the_images_it_matches(parts: Path, pattern: str, expected: list[int]) -> None:
    assert values(open_source(f"{parts}/{pattern}")) == expected
    assert values(open_source(parts / pattern)) == expected


def test_a_relative_pattern_starts_here(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts)
    source = open_source("sub*/*.png")
    assert [frame.path for frame in source] == [Path("sub2/a.png")]
    with pytest.raises(SourceError, match=r"The pattern \*.xyz matches no file. \. holds 'img1.bmp', "):
        open_source("*.xyz")


def test_a_path_that_exists_is_no_pattern(tmp_path: Path, put_image: PutImage) -> None:
    put_image(tmp_path / "lot[1]/a*.png", value=5)
    assert values(open_source(tmp_path / "lot[1]")) == [5]
    assert values(open_source(str(tmp_path / "lot[1]/a*.png"))) == [5]
    with pytest.raises(SourceError, match=r"put it through glob.escape"):
        open_source(str(tmp_path / "lot[1]/*.bmp"))


def test_linked_folders_are_followed_once(parts: Path, tmp_path: Path) -> None:
    (parts / "sub2/loop").symlink_to(parts)
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked").symlink_to(parts / "sub10")
    (other / "twice").symlink_to(parts / "sub10")
    assert values(open_source(parts)) == [1, 2, 10, 22, 210]
    assert find_images(other) == [other / "linked/a.tif"]


def test_a_name_can_be_given(parts: Path) -> None:
    assert {frame.source_id for frame in open_source(parts, source_id="cam 1")} == {"cam 1"}


def test_an_unreadable_image_is_raised_when_it_is_reached(parts: Path) -> None:
    (parts / "img2.PNG").write_bytes(b"")
    source = open_source(parts)
    assert next(source).index == 0
    with pytest.raises(ImageReadError, match=r"img2.PNG is empty \(0 bytes\)"):
        next(source)
    assert (source.delivered, source.corrupt) == (1, 1)
    # The next file can still be asked for, and the gap shows.
    assert [frame.index for frame in source] == [2, 3, 4]


def test_unreadable_images_are_skipped_counted_and_logged(
    parts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (parts / "img1.bmp").write_bytes(b"BM nonsense")
    (parts / "sub10/a.tif").unlink()
    source = open_source(parts, on_error="skip")
    (parts / "sub2/a.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert [frame.index for frame in source] == [1, 2]
    assert (source.length, source.delivered, source.corrupt) == (4, 2, 2)
    assert len(caplog.records) == 2
    assert re.search(r"Skipped frame 0 of .*img1.bmp \(11 bytes\) cannot be decoded", caplog.messages[0])
    assert re.search(r"Skipped frame 3 of .*a.png: No such file", caplog.messages[1])
    assert caplog.records[0].name == "cada_edge.runtime.source_base"


def test_on_error_has_two_values(parts: Path) -> None:
    with pytest.raises(ConfigError, match=r"on_error='ignore' came; wanted 'raise' or 'skip'. Pass"):
        open_source(parts, on_error="ignore")  # type: ignore[arg-type]


def test_a_missing_path_says_what_is_there(parts: Path) -> None:
    message = (
        rf"^There is no {parts}/sub3; {parts} holds 'img1.bmp', 'img10.png', 'img2.PNG', 'notes.txt', "
        rf"'sub10' and 1 more, did you mean '{parts}/sub2'\?. Wanted a camera, stream, .* Correct the path.$"
    )
    with pytest.raises(SourceError, match=message):
        open_source(parts / "sub3")
    with pytest.raises(SourceError, match=rf"; {parts} holds .* did you mean '{parts}/sub10'\?"):
        open_source(parts / "sub100/deeper/a.png")
    with pytest.raises(SourceError, match=rf"There is no .*; {parts}/sub2 holds 'a.png'. Wanted"):
        open_source(parts / "sub2/completely different")


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"holds no image: nothing to be seen. Wanted at least one of \.bmp"
    ):
        open_source(tmp_path)
    for number in range(7):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
    with pytest.raises(
        SourceError, match=r"holds no image: '.\.mp4', .* and 2 more. .*open videos one by one"
    ):
        open_source(tmp_path)


def test_a_pattern_without_images_says_what_it_found(parts: Path) -> None:
    with pytest.raises(SourceError, match=rf"matches no file. {parts}/sub2 holds 'a.png'. Wanted .* Correct"):
        open_source(f"{parts}/sub2/*.jpg")
    with pytest.raises(
        SourceError, match=rf"matches no file. There is no {parts}/sub; .*did you mean .*sub2"
    ):
        open_source(f"{parts}/sub/*.jpg")
    with pytest.raises(SourceError, match=r"matches no image: 'notes.txt'. Wanted .* Change the pattern"):
        open_source(f"{parts}/*.txt")


def test_what_walking_cannot_list_is_raised(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(_top: Path, *, onerror: Callable[[OSError], None], **_options: Any) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", "sub2"))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(
        SourceError, match=r"folder sub2 cannot be listed: Permission denied; wanted .* Check"
    ):
        open_source(parts)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_impossible_path_is_refused(path: str) -> None:
    with pytest.raises(SourceError, match=r"The path .* came; wanted a camera, .* Check how"):
        open_source(path)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot be looked up: .* Check its length|There is no"):
        open_source(tmp_path / ("x" * 5000))


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(
        SourceError, match=r"pipe.png is neither a file nor a folder; wanted .* Name a regular"
    ):
        open_source(tmp_path / "pipe.png")


def test_a_file_with_a_number_for_a_name_is_a_file(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts.parent)
    parts.rename(parts.with_name("0"))
    assert values(open_source("0")) == [1, 2, 10, 22, 210]
