"""A live source against a real RTSP server of Debian's GStreamer: stopped, killed, back with another size."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.errors import SourceLostError
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.source_base import Frame, Source
from cada_edge.runtime.sources import open_source
from cada_edge.runtime.stream_events import StatusEvent
from cada_edge.trainer.synthetic import SyntheticConfig, write_line

pytestmark = pytest.mark.alone

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
OPTIONS = CameraOptions(open_timeout_s=10, stall_timeout_s=1.5)
RECONNECT = Reconnect(first_delay_s=0.1, longest_delay_s=0.3)
FRAMES = 5


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, require_system: Callable[..., None]) -> dict[int, Path]:
    """Side in pixels -> a folder of JPEG frames of the procedural line, as the server plays it."""
    probe = subprocess.run([SYSTEM_PYTHON, "-c", PROBE], capture_output=True, check=False)
    if probe.returncode != 0:
        require_system("python3 with GstRtspServer", package="gir1.2-gst-rtsp-server-1.0")
    found = {}
    for side in (128, 64):
        config = SyntheticConfig(
            size=side,
            train_per_kind=FRAMES,
            test_normal_per_kind=1,
            test_anomalous_per_kind=1,
            kinds=("gear",),
        )
        line = write_line(tmp_path_factory.mktemp("line") / str(side), config)
        folder = tmp_path_factory.mktemp(f"film{side}")
        for number, path in enumerate(sorted((line / "gear/train/good").iterdir())):
            image = cv2.imread(str(path))
            assert image is not None
            cv2.imwrite(str(folder / f"{number:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        found[side] = folder
    return found


class Server:
    """The server's process, always on the same port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self, folder: Path, *credentials: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            self.process = subprocess.Popen(
                [SYSTEM_PYTHON, str(SERVER), str(self.port), str(folder), *credentials],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self.process.stdout is not None
            if self.process.stdout.readline() == "ready\n":
                return
            # The port of a server that was killed is free again after a while.
            self.kill()
            assert time.monotonic() < deadline
            time.sleep(0.5)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.kill()


def take(source: Source, count: int) -> list[Frame]:
    return [next(source) for _ in range(count)]


def wait_for(events: list[StatusEvent], kind: str, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while sum(event.kind == kind for event in events) < count:
        assert time.monotonic() < deadline, events
        time.sleep(0.01)


def adds_up(source: Source) -> bool:
    counts = source.counts
    return counts.captured == counts.delivered + counts.dropped + counts.corrupt + counts.waiting


def test_frames_are_the_films_and_the_newest_is_taken(films: dict[int, Path], server: Server) -> None:
    server.start(films[128])
    originals = []
    for path in sorted(films[128].iterdir()):
        original = cv2.imread(str(path))
        assert original is not None
        originals.append(original.astype(int))
    with open_source(f"rtsp://127.0.0.1:{server.port}/line", camera=OPTIONS) as source:
        frames = take(source, 10)
        for frame in frames:
            assert frame.image.shape == (128, 128, 3)
            nearest = min(np.abs(frame.image.astype(int) - original).mean() for original in originals)
            assert nearest < 2  # FFmpeg's and OpenCV's JPEG decoders round differently
        captured = source.counts.captured
        while source.counts.captured < captured + 7:
            time.sleep(0.01)
        frame = next(source)
        assert frame.dropped_before >= 5
        assert time.monotonic() - next(source).captured_monotonic_s < 0.5
        assert adds_up(source)
    assert source.counts.waiting == 0


def test_a_killed_server_comes_back_with_another_size(films: dict[int, Path], server: Server) -> None:
    events: list[StatusEvent] = []
    server.start(films[128])
    url = f"rtsp://127.0.0.1:{server.port}/line"
    with open_source(url, camera=OPTIONS, reconnect=RECONNECT, on_status=events.append) as source:
        before = take(source, 5)
        server.kill()
        wait_for(events, "retrying", 2)
        captured = source.counts.captured
        time.sleep(0.5)
        assert source.counts.captured == captured  # nothing is invented
        server.start(films[64])
        wait_for(events, "opened", 2)
        wait_for(events, "resized")
        # The one that waited may be from before; it is dropped or handed out, never changed.
        after = take(source, 6)[1:]
        assert {frame.image.shape for frame in before} == {(128, 128, 3)}
        assert {frame.image.shape for frame in after} == {(64, 64, 3)}
        indices = [frame.index for frame in [*before, *after]]
        assert indices == sorted(set(indices))
        assert adds_up(source)


def test_a_server_that_stops_in_the_middle_is_a_stall(films: dict[int, Path], server: Server) -> None:
    events: list[StatusEvent] = []
    server.start(films[64])
    url = f"rtsp://127.0.0.1:{server.port}/line"
    with open_source(url, camera=OPTIONS, reconnect=RECONNECT, on_status=events.append) as source:
        take(source, 3)
        server.signal(signal.SIGSTOP)
        wait_for(events, "stalled")
        wait_for(events, "retrying")
        server.signal(signal.SIGCONT)
        wait_for(events, "opened", 2)
        assert len(take(source, 5)) == 5
        assert adds_up(source)


def test_a_wrong_password_and_a_dead_port_are_given_up_without_showing_it(
    films: dict[int, Path], server: Server
) -> None:
    server.start(films[64], "me", "right")
    with open_source(f"rtsp://me:right@127.0.0.1:{server.port}/line", camera=OPTIONS) as source:
        assert next(source).image.shape == (64, 64, 3)
        assert next(source).source_id == f"rtsp://***@127.0.0.1:{server.port}/line"
    events: list[StatusEvent] = []
    limited = Reconnect(0.05, 0.05, limit=1)
    for url in (f"rtsp://me:wr0ng@127.0.0.1:{server.port}/line", "rtsp://me:wr0ng@127.0.0.1:9/line"):
        with open_source(url, camera=OPTIONS, reconnect=limited, on_status=events.append) as source:
            with pytest.raises(SourceLostError, match="cannot be opened") as error:
                next(source)
            assert "wr0ng" not in str(error.value)
    assert [event.kind for event in events].count("gave_up") == 2
    assert "wr0ng" not in str(events)


def test_a_run_of_two_cameras_survives_the_loss_of_one(
    films: dict[int, Path], server: Server, tiny_model: Path
) -> None:
    events: list[StatusEvent] = []
    seen: list[str] = []
    other = Server()
    server.start(films[128])
    other.start(films[64])
    urls = [f"rtsp://127.0.0.1:{each.port}/line" for each in (server, other)]
    try:
        with (
            Detector(tiny_model, threads=1) as detector,
            detector.run(
                *urls,
                on_result=lambda detection, frame: seen.append(frame.source_id),
                on_status=events.append,
            ) as run,
        ):
            wait_for(events, "opened", 2)
            deadline = time.monotonic() + 60
            while min(seen.count(url) for url in urls) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.kill()
            wait_for(events, "lost")
            count = seen.count(urls[1])
            while seen.count(urls[1]) < count + 10:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        other.kill()
    for counts in run.stats.sources.values():
        assert counts.captured == counts.delivered + counts.dropped + counts.corrupt
    assert run.stats.inspected == len(seen)
