"""A live source against a real MJPEG stream over HTTP: torn images, cut lines, passwords, ports that hang."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from cada_edge.benchmarks.camera_server import CameraServer, ServedCamera, jpeg_frames
from cada_edge.errors import SourceLostError
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.source_base import Source
from cada_edge.runtime.sources import open_source
from cada_edge.runtime.stream_events import StatusEvent

pytestmark = pytest.mark.alone

OPTIONS = CameraOptions(open_timeout_s=5, stall_timeout_s=1)
QUICK = Reconnect(first_delay_s=0.05, longest_delay_s=0.1)
FRAMES = jpeg_frames((48, 64), 4)


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def shown(source: Source, count: int) -> list[int]:
    """Take frames and tell which of the served ones each is, exactly."""
    originals = [decoded(data) for data in FRAMES]
    found = []
    for _ in range(count):
        image = next(source).image
        (which,) = (number for number, original in enumerate(originals) if np.array_equal(image, original))
        found.append(which)
    return found


def wait_for(events: list[StatusEvent], kind: str, count: int = 1) -> None:
    deadline = time.monotonic() + 30
    while sum(event.kind == kind for event in events) < count:
        assert time.monotonic() < deadline, events
        time.sleep(0.01)


@pytest.fixture
def silent_port() -> Iterator[socket.socket]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener


def test_a_torn_image_is_corrupt_and_never_half_a_frame() -> None:
    torn, nonsense = FRAMES[1][: len(FRAMES[1]) // 2], b"\xff\xd8nonsense" * 20
    events: list[StatusEvent] = []
    camera = ServedCamera((FRAMES[0], torn, FRAMES[2], nonsense, FRAMES[3] + b"\0" * 9), fps=100)
    with (
        CameraServer(camera) as server,
        open_source(server.url, policy="block", camera=OPTIONS, on_status=events.append) as source,
    ):
        assert shown(source, 9) == [0, 2, 3] * 3
        assert source.corrupt >= 5
    assert [event.kind for event in events] == ["opened", "corrupt"]
    assert events[1].data == {"index": 1, "corrupt": 1}


def test_a_camera_that_gives_torn_images_alone_is_given_up() -> None:
    torn = FRAMES[1][: len(FRAMES[1]) // 2]
    events: list[StatusEvent] = []
    with (
        CameraServer(ServedCamera((torn,), fps=50)) as server,
        open_source(
            server.url,
            camera=OPTIONS,
            reconnect=Reconnect(0.05, 0.1, limit=1),
            on_status=events.append,
        ) as source,
    ):
        wait_for(events, "gave_up")
        with pytest.raises(
            SourceLostError, match="no whole frame for 1 s; 1 attempts to open it again failed"
        ):
            next(source)
    kinds = [event.kind for event in events if event.kind != "corrupt"]
    once = ["opened", "stalled", "lost"]
    assert kinds == [*once, "retrying", *once, "gave_up"]
    assert source.counts.captured == source.counts.corrupt + source.counts.dropped > 20


def test_a_host_that_says_nothing_holds_up_no_other(silent_port: socket.socket) -> None:
    address = f"http://127.0.0.1:{silent_port.getsockname()[1]}/line"
    dead_events: list[StatusEvent] = []
    events: list[StatusEvent] = []
    patient = CameraOptions(open_timeout_s=60)
    with (
        CameraServer(ServedCamera(FRAMES, fps=50)) as server,
        open_source(address, camera=patient, reconnect=QUICK, on_status=dead_events.append),
    ):
        connection, _ = silent_port.accept()
        with (
            connection,
            open_source(
                server.url, policy="block", camera=patient, reconnect=QUICK, on_status=events.append
            ) as source,
        ):
            assert shown(source, 3) == [0, 1, 2]
            assert not dead_events, "it was still being opened"
    assert [event.kind for event in events] == ["opened"]


def test_a_line_that_is_cut_within_a_frame_costs_that_frame_alone() -> None:
    events: list[StatusEvent] = []
    with (
        CameraServer(ServedCamera(FRAMES, fps=100, cut_every=6)) as server,
        open_source(
            server.url, policy="block", camera=OPTIONS, reconnect=QUICK, on_status=events.append
        ) as source,
    ):
        assert shown(source, 15) == [0, 1, 2, 3, 0, 1] * 2 + [0, 1, 2]
        counts = source.counts
        assert counts.corrupt == 2
        assert counts.captured == counts.delivered + counts.dropped + counts.corrupt + counts.waiting
    kinds = [event.kind for event in events]
    assert kinds[:8] == ["opened", "corrupt", "lost", "retrying", "opened", "lost", "retrying", "opened"]


def test_a_server_that_goes_away_is_waited_for_on_its_port() -> None:
    events: list[StatusEvent] = []
    server = CameraServer(ServedCamera(FRAMES, fps=50))
    with open_source(
        server.url, policy="block", camera=OPTIONS, reconnect=QUICK, on_status=events.append
    ) as source:
        assert shown(source, 3) == [0, 1, 2]
        server.close()
        wait_for(events, "retrying", 3)
        larger = jpeg_frames((96, 64), 1)
        with CameraServer(ServedCamera(larger, fps=50), port=server.port):
            wait_for(events, "resized")
            while (frame := next(source)).image.shape != (96, 64, 3):
                assert frame.image.shape == (48, 64, 3)
    (resized,) = (event for event in events if event.kind == "resized")
    assert "gives frames of 64x96 instead of 64x48" in resized.message


def test_a_server_that_falls_silent_is_a_stall() -> None:
    events: list[StatusEvent] = []
    with (
        CameraServer(ServedCamera(FRAMES, fps=100)) as server,
        open_source(
            server.url, policy="latest", camera=OPTIONS, reconnect=QUICK, on_status=events.append
        ) as source,
    ):
        next(source)
        server.pause()
        wait_for(events, "stalled")
        server.resume()
        wait_for(events, "opened", 2)
        assert len([next(source) for _ in range(3)]) == 3
    stalled = next(event for event in events if event.kind == "stalled")
    assert stalled.data == {"seconds": OPTIONS.stall_timeout_s}


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_opening_takes_no_longer_than_its_timeout(silent_port: socket.socket, scheme: str) -> None:
    started = time.monotonic()
    with (
        open_source(
            f"{scheme}://me:s3cr3t@127.0.0.1:{silent_port.getsockname()[1]}/line",
            camera=CameraOptions(open_timeout_s=0.4),
            reconnect=Reconnect(0, 0, limit=0),
        ) as source,
        pytest.raises(SourceLostError, match="cannot be opened"),
    ):
        next(source)
    # FFmpeg's own limit would be 30 s; beyond 1.5 times ours the thread would be left behind.
    assert 0.35 < time.monotonic() - started < 5


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[str]:
    """Address of a video of five flat frames on a web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    writer = cv2.VideoWriter(str(tmp_path / "parts.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    assert writer.isOpened()
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number + 20, np.uint8))
    writer.release()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/parts.mp4"
        server.shutdown()
        thread.join()


def frames_of(recording: str, most: int, limit: int) -> Iterator[tuple[int, int]]:
    """Take frames: index, and which of the recording's it is."""
    reconnect = Reconnect(0.01, 0.01, limit=limit)
    with open_source(recording, policy="block", camera=OPTIONS, reconnect=reconnect) as source:
        for frame in itertools.islice(source, most):
            yield frame.index, round((float(frame.image.mean()) - 20) / 40)


def test_a_recording_begins_again_at_its_end(recording: str) -> None:
    found = list(frames_of(recording, 12, limit=1))
    assert found == [(index, index % 5) for index in range(12)]


def test_a_recording_without_reconnecting_is_given_up_after_its_last_frame(recording: str) -> None:
    frames = frames_of(recording, 12, limit=0)
    assert [next(frames) for _ in range(5)] == [(index, index) for index in range(5)]
    with pytest.raises(SourceLostError, match="it gave no more frames; it was not opened again"):
        next(frames)


PROGRAM = """
import sys
from cada_edge.cli import main
main(["predict", sys.argv[1], *sys.argv[2:], "--reconnect-limit", "0", "--drop", "block",
      "--record", "line.jsonl", "--json"])
"""


def test_no_output_of_ours_or_ffmpegs_shows_a_password(tiny_model: Path, tmp_path: Path) -> None:
    """Cut, refused and dead addresses, all with the password; everything that is printed is read."""
    camera = ServedCamera(FRAMES, fps=100, cut_every=8, user_password="me:s3cr3t")
    with CameraServer(camera) as server:
        at = urlsplit(server.url)
        urls = [
            f"http://me:s3cr3t@{at.netloc}{at.path}?token=s3cr3t",
            f"http://me:wr0ngs3cr3t@{at.netloc}{at.path}",
            "rtsp://me:s3cr3t@127.0.0.1:9/line",
        ]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tiny_model), *urls],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 4, done.stderr
    record = (tmp_path / "line.jsonl").read_text()
    assert record.count(f'"source": "http://***@{at.netloc}{at.path}?***"') == 8
    assert not re.findall(".*s3cr3t.*", done.stdout + done.stderr + record)
    assert done.stderr.count("gave_up: ") == 3
