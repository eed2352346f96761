from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.errors import ClosedError, SourceError
from cada_edge.runtime.sources import open_source, redact, source_name

PutImage = Callable[..., Path]

GREY = np.full((5, 7), 9, np.uint8)


def test_no_credential_is_shown() -> None:
    pipeline = "rtspsrc location=rtsp://me:pw@cam/1?key=k latency=0 ! appsink"
    assert redact(pipeline) == "rtspsrc location=rtsp://***@cam/1?*** latency=0 ! appsink"


def test_a_file_url_is_refused() -> None:
    with pytest.raises(
        SourceError, match=r"The URL file:///a.png came; wanted a plain path. Leave file:// out"
    ):
        open_source("file:///a.png")


@pytest.mark.parametrize("kind", ["folder", "array", "video"])
def test_after_close_a_source_says_so(tmp_path: Path, put_image: PutImage, kind: str) -> None:
    put_image(tmp_path / "folder/a.png")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    given = {"folder": tmp_path / "folder", "array": GREY, "video": tmp_path / "a.avi"}[kind]
    source = open_source(given, source_id="belt")
    next(source)
    source.close()
    source.close()
    assert source.closed
    with pytest.raises(ClosedError, match=r"'belt' was used after close; wanted an open one. Open it again"):
        next(source)
    with pytest.raises(ClosedError), source:
        pass


def test_an_open_source_is_taken_as_it_is() -> None:
    source = open_source(GREY)
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (GREY, "array"),
        ([GREY], "iterable"),
        (lambda: None, "callable"),
        (Path("a/b.png"), "a/b.png"),
        ("a/*.png", "a/*.png"),
        (0, "webcam 0"),
        (" 0 ", "webcam 0"),
        (" rtsp://me:pw@cam/1?a=b ", "rtsp://***@cam/1?***"),
    ],
)
def test_a_source_has_a_name_before_it_is_opened(source: object, name: str) -> None:
    assert source_name(source) == name


def test_an_open_source_has_its_own_name() -> None:
    assert source_name(open_source(GREY, source_id="belt")) == "belt"


def test_the_end_stays_the_end() -> None:
    source = open_source([GREY, GREY])
    assert len(list(source)) == 2
    assert list(source) == []
    assert not source.closed


def test_a_source_describes_itself() -> None:
    source = open_source([GREY, GREY], source_id="belt")
    next(source)
    assert repr(source) == "IterableSource('belt', frame 1 of 2)"
    source.close()
    assert repr(source) == "IterableSource('belt', frame 1 of 2, closed)"
    assert repr(open_source(iter([]))) == "IterableSource('iterable', frame 0 of ?)"


def test_opening_sources_of_arrays_loads_no_opencv() -> None:
    program = (
        "import sys, numpy, cada_edge\n"
        "frames = list(cada_edge.open_source([numpy.zeros((2, 2), numpy.uint8)]))\n"
        "import cada_edge.runtime.draw, cada_edge.runtime.detection\n"
        "assert len(frames) == 1\n"
        "assert 'cv2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
