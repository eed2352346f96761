"""The grab loop of an industrial camera, against a double of pypylon's camera: no such camera is at hand."""

from __future__ import annotations

import itertools
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RETURN = object()


class ResultDouble:
    """Stands in for pylon.GrabResult: its array is the camera's own buffer, which is written over later."""

    def __init__(self, camera: CameraDouble, number: int, *, succeeded: bool, valid: bool = True) -> None:
        self._camera = camera
        self._number = number
        self._succeeded = succeeded
        self._valid = valid

    def IsValid(self) -> bool:
        return self._valid

    def GrabSucceeded(self) -> bool:
        return self._succeeded

    def GetArray(self) -> np.ndarray:
        return self._camera.buffer

    def GetImageNumber(self) -> int:
        return self._number

    def Release(self) -> None:
        self._camera.held -= 1


class CameraDouble:
    """Stands in for pylon.InstantCamera: Mono8 frames, one that fails, one that never comes."""

    def __init__(self, count: int) -> None:
        self.buffer = np.zeros((20, 30), np.uint8)
        self.held = 0
        self.is_grabbing = False
        self._numbers = itertools.count(1)
        self._count = count

    def StartGrabbing(self) -> None:
        self.is_grabbing = True

    def StopGrabbing(self) -> None:
        self.is_grabbing = False

    def IsGrabbing(self) -> bool:
        return self.is_grabbing

    def RetrieveResult(self, timeout_ms: int, at_timeout: object) -> ResultDouble:
        assert at_timeout is RETURN
        assert self.held == 0, "the result before was not released"
        time.sleep(0.001)
        number = next(self._numbers)
        if number > self._count:
            self.is_grabbing = False
            return ResultDouble(self, number, succeeded=False, valid=False)
        if number == 7:  # lost on its way: the next has the number after it
            number = next(self._numbers)
        self.buffer[:] = number
        self.held += 1
        return ResultDouble(self, number, succeeded=number != 4)


@pytest.fixture
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "industrial_camera.py"))


def test_frames_are_copies_with_the_cameras_own_numbers(example: dict[str, Any]) -> None:
    camera = CameraDouble(10)
    frames = list(example["grab"](camera, "press 3", RETURN))
    assert [frame.index for frame in frames] == [1, 2, 3, 5, 6, 8, 9, 10]
    assert [int(frame.image[0, 0]) for frame in frames] == [frame.index for frame in frames]
    assert {frame.source_id for frame in frames} == {"press 3"}
    assert camera.held == 0
    assert not camera.is_grabbing


def test_closing_the_source_stops_the_camera(example: dict[str, Any]) -> None:
    camera = CameraDouble(10_000)
    frames = example["grab"](camera, "press 3", RETURN)
    assert next(frames).index == 1
    assert camera.is_grabbing
    frames.close()
    assert not camera.is_grabbing
    assert camera.held == 0


class SilentCamera(CameraDouble):
    """Gives three frames; then the line stands still, and every wait ends at its time limit."""

    def __init__(self) -> None:
        super().__init__(3)
        self.stopped_in: list[str] = []

    def IsGrabbing(self) -> bool:
        return not self.stopped_in

    def StopGrabbing(self) -> None:
        self.stopped_in.append(threading.current_thread().name)


def interrupt_once_it_waits(camera: SilentCamera) -> None:
    """Send Ctrl-C when the last frame was given and the main thread waits in `Run.join`."""
    main = threading.main_thread().ident
    assert main is not None
    while True:
        frame: FrameType | None = sys._current_frames()[main]
        names = set()
        while frame is not None:
            names.add((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
            frame = frame.f_back
        if ("run.py", "join") in names and next(camera._numbers) > 10:
            signal.raise_signal(signal.SIGINT)
            return
        time.sleep(0.005)


def test_ctrl_c_ends_it_in_order_while_the_line_stands_still(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = runpy.run_path(str(ROOT / "tests" / "runtime" / "conftest.py"))["_write_tiny_model"]
    model = str(write(tmp_path / "tiny.onnx"))
    camera = SilentCamera()
    helper = threading.Thread(target=interrupt_once_it_waits, args=(camera,), daemon=True)
    # A shell that starts a job in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        helper.start()
        example["main"](model, camera, RETURN)
    finally:
        signal.signal(signal.SIGINT, before)
    # The loop has ended too: it was not left behind in its thread.
    assert "capture press 3" in camera.stopped_in
    assert "capture press 3" not in {thread.name for thread in threading.enumerate()}
    assert camera.held == 0
    counts = capsys.readouterr().out.splitlines()[-1]
    assert "captured=3" in counts
    assert "waiting=0" in counts


def test_it_is_short() -> None:
    assert len((ROOT / "examples" / "industrial_camera.py").read_text().splitlines()) <= 75


def test_the_whole_example_inspects_and_counts(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = runpy.run_path(str(ROOT / "tests" / "runtime" / "conftest.py"))["_write_tiny_model"]
    example["main"](str(write(tmp_path / "tiny.onnx")), CameraDouble(60), RETURN)
    *lines, counts = capsys.readouterr().out.splitlines()
    shown = [int(line.split()[2].rstrip(":")) for line in lines]
    assert shown == sorted(set(shown))
    assert shown[-1] == 60
    # 60 numbers, of which one failed and one never came: both are gaps of the camera's numbering.
    assert "captured=58" in counts
    assert f"delivered={len(shown)}" in counts
    assert "waiting=0" in counts
    assert "source_gaps=2" in counts
