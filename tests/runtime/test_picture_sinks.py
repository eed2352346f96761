"""Annotated images and videos: names, limits, what is deleted and what never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.errors import ConfigError, OutputError
from cada_edge.runtime import picture_sinks
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.picture_sinks import ImageSink, Picture, RejectSink, VideoSink, file_label
from cada_edge.runtime.source_base import Frame

NIGHT_S = 1_795_000_000.25


def frame(
    index: int, *, size_hw: tuple[int, int] = (48, 64), path: Path | None = None, source: str = "rtsp://cam/1"
) -> Frame:
    image = np.full((*size_hw, 3), 40 + index % 100, np.uint8)
    return Frame(image, index, source, NIGHT_S + index, float(index), path)


def picture(sink: Any, of: Frame) -> Picture:
    path = sink.name(of) if isinstance(sink, ImageSink) else sink.path
    return Picture(path, Detection(score=2.0, raw_score=1.0, threshold=1.0), of)


def test_an_image_of_a_file_has_one_name_and_one_of_a_camera_its_time(tmp_path: Path) -> None:
    sink = ImageSink(tmp_path / "out")
    of_file, of_camera = frame(3, path=Path("a/part.png")), frame(3)
    sink.write([picture(sink, of_file), picture(sink, of_camera)])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000003_part.jpg", "20261118T110643.250000Z_000003_rtsp_cam_1.jpg"]
    drawn = cv2.imread(str(tmp_path / "out" / names[0]))
    assert drawn is not None
    assert drawn.shape == (48, 64, 3)
    sink.close()


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("rtsp://10.0.0.7:554/a b", "rtsp_10.0.0.7_554_a_b"),
        ("../../etc/passwd", "etc_passwd"),
        ("größe", "größe"),
        ("//", "source"),
        ("x" * 300, "x" * 60),
    ],
)
def test_a_source_becomes_a_file_name(source: str, label: str) -> None:
    assert file_label(source) == label


def _sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.reject.jpg"))


def test_rejects_stay_within_their_limit_and_the_newest_stay(tmp_path: Path) -> None:
    first = RejectSink(tmp_path, limit_bytes=None)
    for index in range(3):
        first.write([picture(first, frame(index))])
    one = _sizes(tmp_path) // 3
    own = tmp_path / "drawing.jpg"
    own.write_bytes(bytes(one * 10))
    # A later run takes stock of the earlier one's, and the limit holds for both.
    sink = RejectSink(tmp_path, limit_bytes=round(4.5 * one))
    for index in range(3, 12):
        sink.write([picture(sink, frame(index))])
        assert _sizes(tmp_path) <= round(4.5 * one)
    kept = sorted(path.name for path in tmp_path.glob("*.reject.jpg"))
    assert [name.split("_")[1] for name in kept] == ["000008", "000009", "000010", "000011"]
    assert own.stat().st_size == one * 10, "what is no reject was deleted"
    # A smaller limit is kept from the beginning.
    RejectSink(tmp_path, limit_bytes=round(1.5 * one))
    assert len(list(tmp_path.glob("*.reject.jpg"))) == 1


def test_without_a_limit_no_list_of_rejects_grows(tmp_path: Path) -> None:
    sink = RejectSink(tmp_path, limit_bytes=None)
    for index in range(5):
        sink.write([picture(sink, frame(index))])
    assert len(list(tmp_path.iterdir())) == 5
    again = RejectSink(tmp_path, limit_bytes=None)
    again.write([picture(again, frame(5))])
    assert len(list(tmp_path.iterdir())) == 6
    assert not sink._kept
    assert not again._kept


def test_a_reject_that_somebody_took_away_does_no_harm(tmp_path: Path) -> None:
    sink = RejectSink(tmp_path, limit_bytes=2500)
    for index in range(6):
        sink.write([picture(sink, frame(index))])
        for path in tmp_path.glob(f"*_{index:06d}_*"):
            path.unlink()
    assert _sizes(tmp_path) == 0


def test_rejects_of_an_earlier_run_that_cannot_be_deleted_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RejectSink(tmp_path, limit_bytes=None)
    first.write([picture(first, frame(0))])

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    wanted = (
        r"The reject .*_000000_.*\.reject\.jpg cannot be deleted: Permission denied; wanted .* within 1 bytes"
    )
    with pytest.raises(OutputError, match=wanted):
        RejectSink(tmp_path, limit_bytes=1)


def test_a_reject_for_which_no_room_can_be_made_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RejectSink(tmp_path, limit_bytes=None)
    sink.write([picture(sink, frame(0))])
    one = _sizes(tmp_path)
    sink = RejectSink(tmp_path, limit_bytes=round(1.5 * one))
    real = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if "_000000_" in path.name and not path.name.startswith("."):
            raise PermissionError(13, "immutable", str(path))
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for _ in range(3):
            with pytest.raises(PermissionError):
                sink.write([picture(sink, frame(1))])
            assert [path.name.split("_")[1] for path in tmp_path.iterdir()] == ["000000"]
    # Tried again: it is counted once, and the oldest goes.
    sink.write([picture(sink, frame(1))])
    assert [path.name.split("_")[1] for path in tmp_path.iterdir()] == ["000001"]
    sink.write([picture(sink, frame(2))])
    assert [path.name.split("_")[1] for path in tmp_path.iterdir()] == ["000002"]


def test_a_video_whose_disk_refuses_says_what_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that OpenCV lacks is no failure of the disk: the Recorder tells them apart by the number."""
    sink = VideoSink(tmp_path / "line.avi", fps=10)
    monkeypatch.setattr(picture_sinks, "VIDEO_SUFFIXES", {".avi": "????"})
    with pytest.raises(OSError, match="OpenCV cannot write a video of 64x48 pixels") as error:
        sink.write([picture(sink, frame(0))])
    assert error.value.errno is None

    def refuse(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        sink.write([picture(sink, frame(0))])


def test_limits_and_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="A limit of 0 bytes came; wanted more than 0, or None"):
        RejectSink(tmp_path, limit_bytes=0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"The folder .*file cannot be written to: .* name another folder"):
        RejectSink(tmp_path / "file", limit_bytes=None)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such permissions")
def test_a_folder_without_write_permission() -> None:
    # Not pytest's folder: below root's own no other user finds anything.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root, as in a container, ignores permissions
        try:
            with pytest.raises(OutputError, match="cannot be written to: Permission denied"):
                RejectSink(folder, limit_bytes=None)
        finally:
            if user == 0:
                os.seteuid(0)
            folder.chmod(0o755)


def _frames_in(path: Path) -> list[tuple[int, ...]]:
    capture = cv2.VideoCapture(str(path))
    shapes = []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape)
    capture.release()
    return shapes


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_a_video_has_every_frame_and_a_new_size_begins_a_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"line{suffix}"
    sink = VideoSink(path, fps=10)
    sink.write([picture(sink, frame(index)) for index in range(7)])
    sink.write([picture(sink, frame(index, size_hw=(96, 80))) for index in range(3)])
    sink.close()
    assert _frames_in(path) == [(48, 64, 3)] * 7
    assert _frames_in(tmp_path / f"line-2{suffix}") == [(96, 80, 3)] * 3
    # A restarted line does not write over what the last one recorded.
    again = VideoSink(path, fps=10)
    again.write([picture(again, frame(0))])
    again.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [f"line-{n}{suffix}" for n in (2, 3)] + [
        f"line{suffix}"
    ]
    assert len(_frames_in(path)) == 7


def test_a_video_that_was_moved_away_goes_on_in_a_new_file(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "line.avi", fps=10)
    sink.write([picture(sink, frame(0))])
    (tmp_path / "line.avi").rename(tmp_path / "moved.avi")
    sink.write([picture(sink, frame(1))])
    sink.close()
    assert len(_frames_in(tmp_path / "line.avi")) == 1


def test_video_names_and_rates_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line.gif has the extension '.gif'; wanted one of .mkv, .avi"):
        VideoSink(tmp_path / "line.gif", fps=10)
    with pytest.raises(ConfigError, match="A video of 0 frames a second came; wanted a rate above 0"):
        VideoSink(tmp_path / "line.mkv", fps=0)


@pytest.mark.parametrize("kind", ["images", "rejects", "video"])
def test_pictures_stop_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is left is for verdicts."""
    sinks: dict[str, ImageSink | VideoSink] = {
        "images": ImageSink(tmp_path / "all"),
        "rejects": RejectSink(tmp_path / "rejects", limit_bytes=None),
        "video": VideoSink(tmp_path / "line.avi", fps=10),
    }
    sink = sinks[kind]
    monkeypatch.setattr(picture_sinks, "_SPARE_BYTES", 1 << 62)
    with pytest.raises(OSError, match="MiB are free on the disk of"):
        sink.write([picture(sink, frame(0))])
    monkeypatch.undo()
    sink.write([picture(sink, frame(0))])
    sink.close()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_picture_sinks import VideoSink, frame, picture
sink = VideoSink(Path(sys.argv[2]), fps=10)
for index in range(300):
    sink.write([picture(sink, frame(index, size_hw=(240, 320)))])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_video_of_a_killed_process_can_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"line{suffix}"
    command = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), str(path)]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL
    assert len(_frames_in(path)) > 200
