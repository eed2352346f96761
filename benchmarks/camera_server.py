"""A network camera for tests and soaks: MJPEG over HTTP from this machine, as many IP cameras give it.

`python -m cada_edge.benchmarks.camera_server PORT` prints the port when it listens; PORT 0 takes a free one.
"""

from __future__ import annotations

import base64
import http.server
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import numpy as np

from cada_edge.runtime.preprocess import load_cv2

__all__ = ["CameraServer", "ServedCamera", "jpeg_frames"]

_BOUNDARY = "frame"


@dataclass(frozen=True)
class ServedCamera:
    """What the server shows and how it behaves."""

    frames: tuple[bytes, ...]
    """JPEG files, shown one after another, again and again."""
    fps: float = 25.0
    """Frames a second."""
    cut_every: int | None = None
    """Frames after which each connection is cut, in the middle of the next one; None: never."""
    user_password: str | None = None
    """'user:password' that is asked for, or None."""


def jpeg_frames(size_hw: tuple[int, int], count: int, *, seed: int = 0) -> tuple[bytes, ...]:
    """Draw JPEG files of smooth noise, of a size in bytes that real frames have.

    Args:
        size_hw: Height and width, in pixels.
        count: How many.
        seed: Of the noise.
    """
    cv2 = load_cv2("Drawing frames")
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (size_hw[0] // 8 + 1, size_hw[1] // 8 + 1, 3), np.uint8)
        image = cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_CUBIC)
        frames.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return tuple(frames)


class CameraServer:
    """Serves http://127.0.0.1:PORT/ to any number of viewers until closed; a context manager."""

    def __init__(self, camera: ServedCamera, *, port: int = 0) -> None:
        """Listen.

        Raises:
            OSError: The port is taken.
        """
        self.camera = camera
        self._closing = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", port), _handler(self, self._closing, self._running)
        )
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/line.mjpg"

    def pause(self) -> None:
        """Fall silent, with every connection open."""
        self._running.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running.set()

    def close(self) -> None:
        """Cut every connection and free the port."""
        self._closing.set()
        self._running.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> CameraServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _handler(
    server: CameraServer, closing: threading.Event, running: threading.Event
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            camera = server.camera
            if not _is_allowed(camera, self.headers.get("Authorization")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.end_headers()
            _show(camera, self.wfile.write, closing, running)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _is_allowed(camera: ServedCamera, header: str | None) -> bool:
    if camera.user_password is None:
        return True
    return header == "Basic " + base64.b64encode(camera.user_password.encode()).decode()


def _show(
    camera: ServedCamera,
    write: Callable[[bytes], object],
    closing: threading.Event,
    running: threading.Event,
) -> None:
    started = time.monotonic()
    try:
        for number, frame in enumerate(itertools.cycle(camera.frames)):
            due = started + number / camera.fps
            running.wait()
            if closing.wait(max(0.0, due - time.monotonic())):
                return
            is_cut = number == camera.cut_every
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
            write(head.encode() + frame[: len(frame) // 2 if is_cut else None])
            if is_cut:
                return
            write(b"\r\n")
    except OSError:
        return  # the viewer has gone


@click.command()
@click.argument("port", type=int)
@click.option("--size", default="480x640", show_default=True, help="Height and width of the frames.")
@click.option("--fps", default=25.0, show_default=True, help="Frames a second.")
@click.option("--cut-every", type=int, default=None, help="Cut each connection after this many frames.")
def main(port: int, size: str, fps: float, cut_every: int | None) -> None:
    """Serve frames of noise as a network camera on PORT of this machine, until killed."""
    height, width = (int(side) for side in size.split("x"))
    camera = ServedCamera(jpeg_frames((height, width), 10), fps=fps, cut_every=cut_every)
    with CameraServer(camera, port=port) as server:
        click.echo(str(server.port))
        threading.Event().wait()


if __name__ == "__main__":
    main()
