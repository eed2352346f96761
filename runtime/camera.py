"""Live sources by OpenCV: webcams, CSI cameras, GStreamer pipelines, RTSP and HTTP streams."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, SourceError
from cada_edge.runtime.ffmpeg_options import ffmpeg_options
from cada_edge.runtime.live_address import LiveAddress
from cada_edge.runtime.preprocess import load_cv2

__all__ = ["Camera", "CameraOptions"]

_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class CameraOptions:
    """How a live source is opened; what does not apply to its kind is left alone."""

    width: int | None = None
    """Of the frames, in pixels, of a webcam or CSI camera; None for its own choice, 1920 from CSI."""
    height: int | None = None
    """The same; 1080 from CSI."""
    fps: float | None = None
    """Frames a second of a webcam or CSI camera; None for its own choice, 30 from CSI."""
    fourcc: str | None = "MJPG"
    """Pixel format that a webcam is asked for: uncompressed, USB 2 carries few frames a second of more than
    640x480. None for the camera's own choice."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    """Of rtsp://. By UDP a lost packet is a smeared picture, which looks like a defect."""
    open_timeout_s: float = 10.0
    """Longest time that opening may take, in seconds, above 0."""
    stall_timeout_s: float = 5.0
    """Longest time without a frame, in seconds, above 0; then the source is opened anew."""

    def __post_init__(self) -> None:
        for name in ("width", "height", "fps", "open_timeout_s", "stall_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"{name} {value} came; wanted a number above 0. Leave it out for the default."
                )
        if self.fourcc is not None and len(self.fourcc) != 4:
            raise ConfigError(
                f"The pixel format {self.fourcc!r} came; wanted four characters, as 'MJPG' or 'YUYV', "
                "or None for the camera's own choice."
            )
        if self.rtsp_transport not in ("tcp", "udp"):
            raise ConfigError(f"rtsp_transport {self.rtsp_transport!r} came; wanted 'tcp' or 'udp'.")


class Camera:
    """One connection to a live source: opened, read and closed by one thread."""

    def __init__(self, address: LiveAddress, options: CameraOptions) -> None:
        """Open it.

        Raises:
            SourceError: It cannot be opened.
        """
        self._address = address
        self._cv2 = load_cv2("Reading cameras")
        self._capture: Any = self._open(options)
        self._is_jpeg = address.kind == "network" and self._takes_jpeg()
        self.notes: tuple[str, ...] = self._settle(options) if address.kind == "webcam" else ()

    def _open(self, options: CameraOptions) -> Any:
        cv2, kind, address = self._cv2, self._address.kind, self._address.address
        if kind in ("csi", "gstreamer"):
            require_gstreamer(self._address.name)
            pipeline = address if kind == "gstreamer" else csi_pipeline(int(address), options)
            capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
            remedy = "Try the pipeline with gst-launch-1.0, its appsink replaced by fakesink"
        elif kind == "webcam":
            where: int | str = int(address) if address.isdecimal() else address
            capture = cv2.VideoCapture(where, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
            remedy = "Look at the device with v4l2-ctl --list-devices; another program may hold it"
        else:
            timeouts = [
                (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, options.open_timeout_s),
                # The stall is noticed from outside; this frees the thread that waits in vain.
                (cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2 * options.stall_timeout_s),
            ]
            parameters = [value for name, seconds in timeouts for value in (name, int(1000 * seconds))]
            told = f"rtsp_transport;{options.rtsp_transport}"
            # Short enough that the whole is within the limit of LiveSource, which is half as long again.
            with ffmpeg_options.told(told, timeout_s=options.open_timeout_s / 3):
                capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, parameters)
            remedy = "Check the address, the password and the network; ffprobe says more"
        if not capture.isOpened():
            capture.release()
            raise SourceError(f"{self._address.name} cannot be opened; wanted a source of frames. {remedy}.")
        return capture

    def _takes_jpeg(self) -> bool:
        """Ask for a stream of JPEG images as it is, to decode it here.

        FFmpeg makes a whole picture of half an image, as is left when a camera or its line fails, and says
        nothing; OpenCV would hand it on.
        """
        cv2 = self._cv2
        if int(self._capture.get(cv2.CAP_PROP_FOURCC)) != cv2.VideoWriter.fourcc(*"MJPG"):
            return False
        return bool(self._capture.set(cv2.CAP_PROP_FORMAT, -1))

    def _settle(self, options: CameraOptions) -> tuple[str, ...]:
        """Ask a webcam for format, size and rate; return what it did otherwise."""
        cv2 = self._cv2
        if options.fourcc is not None:
            # Before the size: it decides which sizes there are.
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
        wanted = [
            ("width", cv2.CAP_PROP_FRAME_WIDTH, options.width),
            ("height", cv2.CAP_PROP_FRAME_HEIGHT, options.height),
            ("fps", cv2.CAP_PROP_FPS, options.fps),
        ]
        for _, prop, value in wanted:
            if value is not None:
                self._capture.set(prop, float(value))
        notes = []
        if options.fourcc is not None:
            code = int(self._capture.get(cv2.CAP_PROP_FOURCC))
            got = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)).strip("\0 ")
            if got != options.fourcc:
                notes.append(f"pixel format {got or 'unknown'} instead of {options.fourcc}")
        for name, prop, value in wanted:
            got_value = self._capture.get(prop)
            if value is not None and abs(got_value - value) > 0.01 * value:
                notes.append(f"{name} {got_value:g} instead of {value:g}")
        return tuple(notes)

    def read(self) -> tuple[NDArray[Any] | None, float, float] | None:
        """Wait for the next frame.

        Returns:
            The image, uint8 (H, W, 3) BGR, None where it cannot be decoded, with the wall-clock and monotonic
            times at which it was there, in seconds; None when the connection is lost.
        """
        if not self._capture.grab():
            return None
        at_s, monotonic_s = time.time(), time.monotonic()
        is_whole, image = self._capture.retrieve()
        if is_whole and self._is_jpeg:
            image = self._decode(image)
        if not is_whole or image is None or image.size == 0:
            return None, at_s, monotonic_s
        return np.asarray(image), at_s, monotonic_s

    def _decode(self, data: NDArray[np.uint8]) -> NDArray[Any] | None:
        """Decode a JPEG image; None where its end is missing, or it is none."""
        cv2 = self._cv2
        # Some cameras fill up with zeros behind the end.
        if not data.tobytes().rstrip(b"\0").endswith(_JPEG_END):
            return None
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image: NDArray[Any] | None = cv2.imdecode(data, flags)
        except cv2.error:
            return None  # as of a header that says millions of pixels a side
        return image

    def close(self) -> None:
        """Give the connection back."""
        self._capture.release()


def require_gstreamer(name: str) -> None:
    """Check that this OpenCV was built with GStreamer.

    Raises:
        SourceError: It was not.
    """
    cv2 = load_cv2("Reading cameras")
    if not re.search(r"GStreamer:\s*YES", str(cv2.getBuildInformation())):
        raise SourceError(
            f"{name} needs an OpenCV with GStreamer, and this one ({cv2.__version__}) has none: pip's "
            "packages never do. Use the system's OpenCV (on a Jetson JetPack's; on Debian python3-opencv) in "
            "an environment made with --system-site-packages; cada-edge doctor shows what is there."
        )


def csi_pipeline(number: int, options: CameraOptions) -> str:
    """Return the GStreamer pipeline of a Jetson's CSI camera.

    Args:
        number: Of the camera, from 0.
        options: Size and rate.
    """
    width, height, fps = options.width or 1920, options.height or 1080, options.fps or 30
    rate = f"{int(fps)}/1" if float(fps).is_integer() else f"{round(1000 * fps)}/1000"
    return (
        f"nvarguscamerasrc sensor-id={number} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate},format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
