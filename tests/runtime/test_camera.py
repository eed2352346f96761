"""Addresses of live sources, and what OpenCV is asked for. The capture is a double of cv2.VideoCapture: no
machine of the tests has a camera, so what a real device answers is not tested here (test_rtsp.py is real)."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cada_edge.errors import ConfigError, SourceError
from cada_edge.runtime.camera import Camera, CameraOptions, csi_pipeline
from cada_edge.runtime.ffmpeg_options import FFmpegOptions
from cada_edge.runtime.live_address import LiveAddress, parse_live, redact
from cada_edge.runtime.sources import open_source

FRAME = np.full((4, 6, 3), 7, np.uint8)

NAME = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
THREAD_SAFE = "OPENCV_FFMPEG_IS_THREAD_SAFE"
AS_OPENCV_DOES = "rtsp_flags;prefer_tcp"


class CaptureDouble:
    """Stands in for cv2.VideoCapture: remembers what it was opened with and set to."""

    opened: list[tuple[Any, ...]] = []  # noqa: RUF012 - one list for all, emptied by the fixture
    environment: list[str | None] = []  # noqa: RUF012
    is_open = True
    refuses: dict[int, float] = {}  # noqa: RUF012
    frames: list[Any] = []  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        self.opened.append(arguments)
        self.environment.append(os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS"))
        self.values: dict[int, float] = {}
        self.released = 0
        self._current: Any = None

    def isOpened(self) -> bool:
        return self.is_open

    def set(self, prop: int, value: float) -> bool:
        self.values[prop] = self.refuses.get(prop, value)
        return True

    def get(self, prop: int) -> float:
        return self.values.get(prop, 0.0)

    def grab(self) -> bool:
        if not self.frames:
            return False
        self._current = self.frames.pop(0)
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return self._current is not None, self._current

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[CaptureDouble]:
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    for name, value in (
        ("opened", []),
        ("environment", []),
        ("refuses", {}),
        ("frames", []),
        ("is_open", True),
    ):
        monkeypatch.setattr(CaptureDouble, name, value)
    monkeypatch.setattr(cv2, "VideoCapture", CaptureDouble)
    return CaptureDouble


def live(source: object) -> LiveAddress:
    address = parse_live(source)
    assert address is not None
    return address


@pytest.mark.parametrize(
    ("source", "kind", "address", "name"),
    [
        (0, "webcam", "0", "webcam 0"),
        ("/dev/video2", "webcam", "/dev/video2", "/dev/video2"),
        ("csi://1", "csi", "1", "csi://1"),
        ("RTSP://me:p@ss/w@10.0.0.1:554/live?token=abc", "network", None, "RTSP://***@10.0.0.1:554/live?***"),
        ("https://host/live.m3u8", "network", None, "https://host/live.m3u8"),
        ("v4l2src ! videoconvert ! appsink", "gstreamer", None, "v4l2src ! videoconvert ! appsink"),
        (" rtsp://me:a word@cam/1\n", "network", "rtsp://me:a word@cam/1", "rtsp://***@cam/1"),
        ("csi://1 ", "csi", "1", "csi://1"),
        ("rtsp://me:a ! b@cam/appsink", "network", None, "rtsp://***@cam/appsink"),
        (
            "rtspsrc location=rtsp://u:pw@cam !\n    decodebin !\n    appsink\n",
            "gstreamer",
            "rtspsrc location=rtsp://u:pw@cam !\n    decodebin !\n    appsink",
            "rtspsrc location=rtsp://***@cam ! decodebin ! appsink",
        ),
        ("v4l2src\t!\nvideoconvert\n!appsink", "gstreamer", None, "v4l2src ! videoconvert !appsink"),
        ("videotestsrc!appsink", "gstreamer", None, "videotestsrc!appsink"),
        (
            "rtspsrc location='rtsp://u:p w@cam/1' ! appsink",
            "gstreamer",
            None,
            "rtspsrc location='rtsp://***@cam/1' ! appsink",
        ),
        (
            'rtspsrc location="rtsp://h/1" user-id=me user-pw="a b" ! decodebin ! appsink',
            "gstreamer",
            None,
            'rtspsrc location="rtsp://h/1" user-id=*** user-pw=*** ! decodebin ! appsink',
        ),
    ],
)
def test_live_addresses(source: object, kind: str, address: str | None, name: str) -> None:
    found = live(source)
    assert (found.kind, found.address, found.name) == (kind, address or source, name)


@pytest.mark.parametrize("source", ["line/a.png", "*.png", "C:/parts", True, None, 1.5, FRAME, "video0"])
def test_anything_else_is_no_live_source(source: object) -> None:
    assert parse_live(source) is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (-1, "The webcam index -1 came; wanted 0 or above"),
        ("csi://left", "csi://left came; wanted csi:// and a camera's number"),
        ("file:///a.png", "The URL file:///a.png came; wanted a plain path. Leave file:// out"),
        ("gige://me:pw@cam", r"The URL gige://\*\*\*@cam came; wanted one that begins with rtsp://"),
        ("v4l2src ! fakesink", "The GStreamer pipeline v4l2src ! fakesink has no appsink"),
        ("v4l2src !\nfakesink", "The GStreamer pipeline v4l2src ! fakesink has no appsink"),
        ("csi://me:pw@0", r"csi://\*\*\*@0 came; wanted csi:// and a camera's number"),
        ("file://me:pw@nas/a.png", r"The URL file://\*\*\*@nas/a.png came; wanted a plain path"),
    ],
)
def test_refused_addresses(source: object, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_live(source)


def all_that_is_printed(error: BaseException | None) -> str:
    """Join what a program prints that ends with an error: it names those behind it too."""
    told = ""
    while error is not None:
        told += f"{error}\n"
        error = error.__cause__ or error.__context__
    return told


@pytest.mark.parametrize(
    "address",
    [
        "rtsp:/me:secret@cam/1",
        "rtsp//me:secret@cam",
        "HTTP:me:secret@cam/x",
        "tcp:secret",
        "rtsp:/me:secret@cam?ch=1",  # as a pattern for files would have it
        "rtsp:/me:[secret]@cam",
        " \trtsp:/me:secret@cam/1",
        "rtsp;//me:secret@cam/1",
        "rtsp:/me:secret@cam/1\0",
        "rtsp:/me:secret@cam/" + "long/" * 1000,
        "rtsp:/me:secret@cam/" + "x" * 300,
        '"rtsp://me:secret@cam/1"',  # as a file of environment variables keeps it
        "'http://me:a secret@cam/1",
        Path("rtsp://me:secret@cam/1"),
    ],
)
def test_a_mistyped_address_shows_no_secret(address: str | Path) -> None:
    with pytest.raises(SourceError, match=r"An address that begins with .* came; wanted \w+://host") as error:
        open_source(address)
    assert "secret" not in all_that_is_printed(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('"rtsp://me:secret@cam/1"', 'An address that begins with "rtsp: came; .* without quotes, which'),
        ('"gige://me:secret@cam"', r"There is no \"gige:/\*\*\*@cam\""),
        ("URL=rtsp://me:secret@cam/1", r"There is no URL=rtsp:/\*\*\*@cam/1"),
        ("me:secret@10.0.0.1/1", r"There is no \*\*\*@10.0.0.1/1"),
        ("me:secret@10.0.0.1/*.jpg", r"The pattern \*\*\*@10.0.0.1/\*.jpg matches no file"),
        ("URL=rtsp:me:secret@cam" + "x" * 300, r"(The path|There is no) URL=rtsp:\*\*\*@camx+"),
        (
            "rtspsrc location=rtsp://me:secret@cam!decodebin",
            r"There is no rtspsrc location=rtsp:/\*\*\*@cam!d",
        ),
        (
            ["rtsp://me:secret@cam/1"],
            r"Item 0 of iterable is the address rtsp://\*\*\*@cam/1; .* detector.run\(\*cameras",
        ),
        (
            ["http://me:secret@cam/a.jpg"],
            r"Item 0 of iterable is the address http://\*\*\*@cam/a.jpg; wanted",
        ),
        ([Path("http://me:secret@cam/a.jpg")], r"is the address http:/\*\*\*@cam/a.jpg; wanted"),
        (["'rtsp://me:secret@cam/1'"], r"is the address 'rtsp://\*\*\*@cam/1'; wanted"),
        (
            ["rtspsrc location=rtsp://me:secret@cam ! appsink"],
            r"is the address .*//\*\*\*@cam ! appsink; wanted",
        ),
        (["me:secret@cam/1"], r"Item 0 of iterable is the path \*\*\*@cam/1; wanted image files"),
        ([0], r"Item 0 of iterable is of type int; .* sources of their own, detector.run\(\*cameras\)"),
    ],
)
def test_no_refusal_shows_a_secret(source: object, message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        next(open_source(source))
    assert "secret" not in all_that_is_printed(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rtsp://me:secret@cam/1", r"the address rtsp://\*\*\*@cam/1; wanted .* detector.run\(\*cameras\)"),
        ("http://me:secret@cam/a.jpg", r"the address http://\*\*\*@cam/a.jpg; wanted the path of an image"),
        ("camera me:secret@cam", r"'camera \*\*\*@cam'; wanted the path of an image"),
    ],
)
def test_no_line_of_a_list_file_shows_a_secret(tmp_path: Path, line: str, message: str) -> None:
    listing = tmp_path / "cameras.txt"
    listing.write_text(f"# left\n{line}\n")
    with pytest.raises(SourceError, match=rf"Line 2 of .*cameras.txt is {message}") as error:
        open_source(listing)
    assert "secret" not in all_that_is_printed(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:p@ss@cam/1", "rtsp://***@cam/1"),
        ("rtsp://me:pa/ss?w@cam/1", "rtsp://***@cam/1"),
        ("rtsp:/me:pw@cam/1?a=b", "rtsp:/***@cam/1?***"),
        ("no me:p/w@10.0.0.1:554/1", "no ***@10.0.0.1:554/1"),
        ("C:/parts@2/a.png, parts: a@b", "C:/parts@2/a.png, parts: a@b"),
        ("two: http://a:b@c/d?e=f and http://g/h", "two: http://***@c/d?*** and http://g/h"),
        ("did you mean 'x'?", "did you mean 'x'?"),
        (
            "rtsp://cam:554/user=admin_password=XYZ_channel=1_stream=0.sdp?real_stream is lost",
            "rtsp://cam:554/user=***_password=***_channel=1_stream=0.sdp?*** is lost",
        ),
        ("rtsp://cam/user=a_password=X_Y/Z_channel=2", "rtsp://cam/user=***_password=***_channel=2"),
        ("rtsp://cam/user=a_password=_channel=2", "rtsp://cam/user=***_password=***_channel=2"),
        ("rtsp://cam/USER=a&PWD=XYZ&channel=2", "rtsp://cam/USER=***&PWD=***&channel=2"),
        ("http://cam/passwd=XYZ/1 http://cam/pass=XYZ", "http://cam/passwd=*** http://cam/pass=***"),
        ("rtspsrc user-pw = 'a \\' b' latency=0 ! appsink", "rtspsrc user-pw = *** latency=0 ! appsink"),
        ("rtsp://cam/compass=3/bypass", "rtsp://cam/compass=3/bypass"),
    ],
)
def test_no_secret_is_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_webcam_is_asked_for_mjpg_first_and_what_it_did_is_read_back(capture: type[CaptureDouble]) -> None:
    capture.refuses = {cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"), cv2.CAP_PROP_FRAME_WIDTH: 640}
    camera = Camera(live(0), CameraOptions(width=1920, height=1080, fps=30))
    assert capture.opened == [(0, cv2.CAP_V4L2)]
    set_to = camera._capture.values
    assert list(set_to) == [
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FRAME_WIDTH,
        cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_FPS,
    ]
    assert camera.notes == ("pixel format YUYV instead of MJPG", "width 640 instead of 1920")
    assert Camera(live("/dev/video3"), CameraOptions(fourcc=None)).notes == ()
    assert capture.opened[1] == ("/dev/video3", cv2.CAP_V4L2)


def test_a_stream_gets_its_timeouts_when_it_is_opened_and_tcp(capture: type[CaptureDouble]) -> None:
    Camera(live("rtsp://me:pw@cam/1"), CameraOptions(open_timeout_s=3, stall_timeout_s=2))
    ((url, backend, parameters),) = capture.opened
    assert (url, backend) == ("rtsp://me:pw@cam/1", cv2.CAP_FFMPEG)
    assert parameters == [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 3000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 4000]
    Camera(live("rtsp://cam/1"), CameraOptions(rtsp_transport="udp"))
    assert capture.environment == ["rtsp_transport;tcp", "rtsp_transport;udp"]
    assert os.environ[NAME] == AS_OPENCV_DOES


def test_options_that_a_user_gave_ffmpeg_stay(
    capture: type[CaptureDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp|fflags;nobuffer")
    Camera(live("rtsp://cam/1"), CameraOptions())
    assert capture.environment == ["rtsp_transport;udp|fflags;nobuffer"]
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "rtsp_transport;udp|fflags;nobuffer"


class SlowOpening:
    """Cameras that are opened in threads; each opening takes until it is told to end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered: dict[str, threading.Event] = {}
        self.ends: dict[str, threading.Event] = {}
        self.seen: dict[str, str | None] = {}
        self.failed: dict[str, SourceError] = {}
        self.threads: dict[str, threading.Thread] = {}
        opening = self

        class Slow(CaptureDouble):
            def __init__(self, address: str, *rest: Any) -> None:
                opening.seen[address] = os.environ.get(NAME)
                opening.entered[address].set()
                opening.ends[address].wait(30)
                super().__init__(address, *rest)

        monkeypatch.setattr(cv2, "VideoCapture", Slow)

    def start(self, address: str, **options: Any) -> None:
        self.entered[address], self.ends[address] = threading.Event(), threading.Event()

        def work() -> None:
            try:
                Camera(live(address), CameraOptions(**options))
            except SourceError as error:
                self.failed[address] = error

        self.threads[address] = threading.Thread(target=work, daemon=True)
        self.threads[address].start()

    def end(self, *addresses: str) -> None:
        for address in addresses:
            self.ends[address].set()
            self.threads[address].join(30)


@pytest.fixture
def opening(capture: type[CaptureDouble], monkeypatch: pytest.MonkeyPatch) -> Callable[[], SlowOpening]:
    return lambda: SlowOpening(monkeypatch)


@pytest.fixture
def log() -> Iterator[Any]:
    """OpenCV's log, at its usual level: 3, with warnings."""
    log: Any = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    log.setLogLevel(3)
    yield log
    log.setLogLevel(before)


def test_a_host_that_hangs_holds_up_no_other(opening: Callable[[], SlowOpening], log: Any) -> None:
    cameras = opening()
    cameras.start("rtsp://dead/1")
    assert cameras.entered["rtsp://dead/1"].wait(30)
    cameras.start("rtsp://well/1")
    assert cameras.entered["rtsp://well/1"].wait(30), "it waits for the other one"
    assert set(cameras.seen.values()) == {"rtsp_transport;tcp"}
    # It warns, at each opening, that it does as it was told.
    assert log.getLogLevel() == 2
    cameras.end("rtsp://dead/1")
    assert os.environ[NAME] == "rtsp_transport;tcp", "it was taken from the one that is still being opened"
    cameras.end("rtsp://well/1")
    assert os.environ[NAME] == AS_OPENCV_DOES
    assert log.getLogLevel() == 3


def test_a_level_that_the_application_sets_meanwhile_stays(
    opening: Callable[[], SlowOpening], log: Any
) -> None:
    cameras = opening()
    cameras.start("rtsp://a/1")
    assert cameras.entered["rtsp://a/1"].wait(30)
    log.setLogLevel(4)
    cameras.end("rtsp://a/1")
    assert log.getLogLevel() == 4


def test_only_who_wants_other_options_waits(opening: Callable[[], SlowOpening]) -> None:
    cameras = opening()
    cameras.start("rtsp://a/1")
    assert cameras.entered["rtsp://a/1"].wait(30)
    cameras.start("rtsp://b/1", rtsp_transport="udp", open_timeout_s=90)
    assert not cameras.entered["rtsp://b/1"].wait(0.1)
    cameras.end("rtsp://a/1")
    assert cameras.entered["rtsp://b/1"].wait(30)
    assert cameras.seen["rtsp://b/1"] == "rtsp_transport;udp"
    cameras.start("rtsp://c/1", open_timeout_s=0.1)
    cameras.threads["rtsp://c/1"].join(30)
    assert "being opened with rtsp_transport;udp, for more than" in str(cameras.failed["rtsp://c/1"])
    cameras.end("rtsp://b/1")
    assert os.environ[NAME] == AS_OPENCV_DOES


def test_opencv_is_told_to_open_streams_side_by_side(
    opening: Callable[[], SlowOpening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(THREAD_SAFE, raising=False)
    monkeypatch.setenv(NAME, "fflags;nobuffer")
    cameras = opening()
    cameras.start("rtsp://a/1")
    assert cameras.entered["rtsp://a/1"].wait(30)
    assert os.environ[THREAD_SAFE] == "1"
    cameras.start("rtsp://b/1", rtsp_transport="udp")
    assert cameras.entered["rtsp://b/1"].wait(30), "both have the user's own options"
    cameras.end("rtsp://a/1", "rtsp://b/1")
    assert os.environ[THREAD_SAFE] == "0"
    assert set(cameras.seen.values()) == {"fflags;nobuffer"} == {os.environ[NAME]}


def test_options_that_a_user_gives_between_two_openings_stay(capture: type[CaptureDouble]) -> None:
    Camera(live("rtsp://cam/1"), CameraOptions())
    os.environ[NAME] = "fflags;nobuffer"
    try:
        Camera(live("rtsp://cam/1"), CameraOptions())
        assert os.environ[NAME] == "fflags;nobuffer"
    finally:
        del os.environ[NAME]
    Camera(live("rtsp://cam/1"), CameraOptions())
    assert capture.environment == ["rtsp_transport;tcp", "fflags;nobuffer", "rtsp_transport;tcp"]


def test_the_variables_are_there_before_the_first_thread_is(
    opening: Callable[[], SlowOpening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(THREAD_SAFE, raising=False)
    cameras = opening()
    cameras.entered["rtsp://a/1"], cameras.ends["rtsp://a/1"] = threading.Event(), threading.Event()
    started = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        assert {NAME, THREAD_SAFE} <= os.environ.keys()
        started(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with open_source("rtsp://a/1"):
        assert cameras.entered["rtsp://a/1"].wait(30)
        cameras.ends["rtsp://a/1"].set()


def test_programs_start_while_streams_are_opened_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # A variable that comes and goes makes such starts fail, with EFAULT.
    for name in (NAME, THREAD_SAFE):
        monkeypatch.delenv(name, raising=False)
    options = FFmpegOptions()
    ended = threading.Event()

    def open_again() -> None:
        while not ended.is_set():
            with options.told("rtsp_transport;tcp", timeout_s=10):
                pass

    thread = threading.Thread(target=open_again)
    thread.start()
    try:
        for _ in range(200):
            subprocess.run(["true"], check=True)
    finally:
        ended.set()
        thread.join()


def test_frames_corrupt_frames_and_the_end(capture: type[CaptureDouble]) -> None:
    capture.frames = [FRAME, None, np.zeros((0, 0, 3), np.uint8)]
    camera = Camera(live(0), CameraOptions(fourcc=None))
    found = camera.read()
    assert found is not None
    assert found[0] is FRAME
    for _ in range(2):
        found = camera.read()
        assert found is not None
        assert found[0] is None
    assert camera.read() is None
    camera.close()
    assert camera._capture.released == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (0, r"webcam 0 cannot be opened; .* v4l2-ctl --list-devices"),
        ("rtsp://me:pw@cam/1", r"rtsp://\*\*\*@cam/1 cannot be opened; .* Check the address"),
    ],
)
def test_what_cannot_be_opened_says_what_to_look_at(
    source: object, message: str, capture: type[CaptureDouble]
) -> None:
    capture.is_open = False
    with pytest.raises(SourceError, match=message):
        Camera(live(source), CameraOptions())


def test_gstreamer_needs_an_opencv_that_has_it(
    capture: type[CaptureDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   NO\n")
    with pytest.raises(SourceError, match=r"csi://0 needs an OpenCV with GStreamer, .* cada-edge doctor"):
        Camera(live("csi://0"), CameraOptions())
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:          YES (1.20.3)\n")
    Camera(live("csi://0"), CameraOptions(width=1280, height=720, fps=59.94))
    ((pipeline, backend),) = capture.opened
    assert backend == cv2.CAP_GSTREAMER
    assert pipeline == csi_pipeline(0, CameraOptions(width=1280, height=720, fps=59.94))
    assert "sensor-id=0 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=59940/1000" in pipeline
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")
    assert "width=1920,height=1080,framerate=30/1" in csi_pipeline(1, CameraOptions())


def test_what_no_waiting_brings_back_is_refused_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   NO\n")
    for source in ("csi://0", "v4l2src ! appsink"):
        with pytest.raises(SourceError, match=r"needs an OpenCV with GStreamer, .* cada-edge doctor"):
            open_source(source)


def test_a_stream_of_jpeg_is_decoded_here_and_half_an_image_is_none(capture: type[CaptureDouble]) -> None:
    class JpegDouble(CaptureDouble):
        def get(self, prop: int) -> float:
            mjpg = float(cv2.VideoWriter.fourcc(*"MJPG"))
            return mjpg if prop == cv2.CAP_PROP_FOURCC else super().get(prop)

    data = cv2.imencode(".jpg", FRAME)[1].reshape(1, -1)
    huge = bytearray(data.tobytes())
    at = huge.index(b"\xff\xc0") + 5  # height and width
    huge[at : at + 4] = b"\xff\xdc\xff\xdc"
    damaged = np.frombuffer(bytes(huge), np.uint8).reshape(1, -1)
    with pytest.raises(cv2.error):
        cv2.imdecode(damaged, cv2.IMREAD_COLOR)
    padded = np.pad(data, ((0, 0), (0, 6)))
    capture.frames = [data, data[:, :-4], padded, np.zeros((1, 8), np.uint8), damaged, data]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", JpegDouble)
        camera = Camera(live("http://cam/1"), CameraOptions())
    assert camera._capture.values == {cv2.CAP_PROP_FORMAT: -1}
    found = [camera.read() for _ in range(6)]
    assert None not in found, "the connection is lost"
    shapes = [None if each is None or each[0] is None else each[0].shape for each in found]
    assert shapes == [(4, 6, 3), None, (4, 6, 3), None, None, (4, 6, 3)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width 0 came; wanted a number above 0"),
        ({"stall_timeout_s": -1}, "stall_timeout_s -1 came"),
        ({"fourcc": "MJPEG"}, "The pixel format 'MJPEG' came; wanted four characters"),
        ({"rtsp_transport": "quic"}, "rtsp_transport 'quic' came; wanted 'tcp' or 'udp'"),
    ],
)
def test_refused_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CameraOptions(**values)
