"""An industrial camera by its maker's SDK: its grab loop is a generator of frames, and that is a source.

The loop has the shape of pypylon's (Basler). `grab` takes any camera with those methods, so that a test can
run it without the package; the last block opens a real one. Other SDKs (Vimba, Spinnaker, Aravis) have the
same parts: start, wait for a frame with a time limit, copy it out, release it, stop.

    pip install pypylon
    python industrial_camera.py model.onnx
"""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from cada_edge import Detection, Detector, Frame, open_source

TIMEOUT_MS = 1000


def grab(camera: Any, name: str, at_timeout: Any) -> Iterator[Frame]:
    """Yield the camera's frames, with the camera's own numbers: a frame that never came is then a gap.

    Args:
        camera: A pylon.InstantCamera, open, that gives Mono8 or BGR8.
        name: For results and records.
        at_timeout: pylon.TimeoutHandling_Return: no exception when no frame comes within the time limit.
    """
    camera.StartGrabbing()
    try:
        while camera.IsGrabbing():
            result = camera.RetrieveResult(TIMEOUT_MS, at_timeout)
            if not result.IsValid():
                continue  # no frame within the time limit: the line may stand still
            try:
                if result.GrabSucceeded():
                    # A copy: the SDK fills its buffer again after Release.
                    image, number = result.GetArray().copy(), result.GetImageNumber()
                    yield Frame(image, number, name, time.time(), time.monotonic())
            finally:
                result.Release()
    finally:
        camera.StopGrabbing()  # also when the source is closed while a frame is out, or after an error


def on_result(detection: Detection, frame: Frame) -> None:
    """Show one line a frame; the time from capture to here is what the reject gate has to wait for."""
    latency_ms = (time.monotonic() - frame.captured_monotonic_s) * 1e3
    print(f"{frame.source_id} {frame.index}: {detection.score:.2f}, {latency_ms:.0f} ms", flush=True)


def main(model: str, camera: Any, at_timeout: Any) -> None:
    """Inspect the newest frame, always; the camera is read in a thread of its own."""
    source = open_source(grab(camera, "press 3", at_timeout), source_id="press 3", policy="latest")
    with Detector(model) as detector, source, detector.run(source, on_result=on_result) as run:
        try:
            with suppress(KeyboardInterrupt):
                run.join()
        finally:
            camera.StopGrabbing()  # `grab` sees it within its time limit, also where no frame comes any more
    print(run.stats.sources["press 3"], flush=True)


if __name__ == "__main__":
    from importlib import import_module

    pylon: Any = import_module("pypylon.pylon")
    device = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateFirstDevice())
    device.Open()
    main(sys.argv[1], device, pylon.TimeoutHandling_Return)
