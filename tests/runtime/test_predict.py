"""`cada-edge predict` as a service: several sources, files that are kept, and the ways in which it ends."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cada_edge.cli import main
from cada_edge.options import read_bytes
from cada_edge.runtime.camera import CameraOptions
from cada_edge.runtime.conformal import DEFAULT_FALSE_ALARM_RATE
from cada_edge.runtime.inspection_log import InspectionLog
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.run_options import RunOptions

pytestmark = pytest.mark.alone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of growing brightness."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"part{index}.png"), np.full((30, 40, 3), 40 * index, np.uint8))
    return folder


@pytest.fixture
def endless(folder: Path) -> Path:
    """A source that outlasts every test: a list of the same images, again and again."""
    path = folder.parent / "endless.txt"
    path.write_text("".join(f"parts/part{index % 5}.png\n" for index in range(50_000)))
    return path


def test_the_commands_defaults_are_an_applications() -> None:
    found = {parameter.name: parameter.default for parameter in main.commands["predict"].params}
    options, log = RunOptions(), inspect.signature(InspectionLog).parameters
    assert found["batch_timeout"] == 1e3 * options.batch_timeout_s
    assert found["queue"] == options.capacity
    assert found["stall_timeout"] == CameraOptions().stall_timeout_s
    assert found["reconnect_limit"] == Reconnect().limit
    assert found["video_fps"] == log["video_fps"].default
    assert read_bytes(None, None, str(found["rejects_limit"])) == log["rejects_limit_bytes"].default
    calibrate = {parameter.name: parameter.default for parameter in main.commands["calibrate"].params}
    assert calibrate["false_alarm_rate"] == DEFAULT_FALSE_ALARM_RATE


def predict(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    assert result.exit_code == code, result.stderr
    return result


def test_several_sources_are_inspected_together(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    result = predict(
        *(tiny_model, folder, folder / "part0.png", folder / "part4.png"),
        *("--json", "--batch", 3, "--batch-timeout", 50, "--save", tmp_path / "all"),
        *("--record", tmp_path / "line.db"),
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    of_folder = [line["frame_index"] for line in lines if line["source_id"] == str(folder)]
    assert of_folder == [0, 1, 2, 3, 4]
    assert sorted(line["source_id"] for line in lines if line["source_id"] != str(folder)) == [
        str(folder / "part0.png"),
        str(folder / "part4.png"),
    ]
    assert "inspected 7 frames in" in result.stderr
    assert "0 dropped, 0 corrupt, 0 refused; latency" in result.stderr
    assert sorted(len(list(each.iterdir())) for each in (tmp_path / "all").iterdir()) == [1, 1, 5]
    connection = sqlite3.connect(tmp_path / "line.db")
    assert connection.execute("SELECT count(*), count(image) FROM verdicts").fetchone() == (7, 7)
    connection.close()


def test_rejects_alone_are_saved_within_their_limit(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    scores = [json.loads(line)["score"] for line in predict(tiny_model, folder, "--json").stdout.splitlines()]
    threshold = sorted(scores)[2]
    run = (tiny_model, folder, "--threshold", threshold, "--quiet", "--save-rejects", tmp_path / "rejects")
    result = predict(*run, "--record", tmp_path / "line.jsonl")
    assert result.stdout == ""
    assert "2 anomalous" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [row["image"] is not None for row in rows] == [score > threshold for score in scores]
    saved = list((tmp_path / "rejects").iterdir())
    assert len(saved) == 2
    largest = max(path.stat().st_size for path in saved)
    predict(*run, "--rejects-limit", f"{largest + 1}B")
    assert len(list((tmp_path / "rejects").iterdir())) == 1


def test_a_video_has_a_frame_for_each_line(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    predict(tiny_model, folder, "--save-video", tmp_path / "line.avi", "--video-fps", 5)
    capture = cv2.VideoCapture(str(tmp_path / "line.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    capture.release()


def test_bad_options_end_before_anything_runs(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    assert (
        "has the extension '.gif'"
        in predict(tiny_model, folder, "--save-video", tmp_path / "a.gif", code=2).stderr
    )
    assert "GiB" in predict(tiny_model, folder, "--rejects-limit", "10", code=2).stderr
    assert "Missing argument 'SOURCE...'" in predict(tiny_model, code=2).stderr
    (tmp_path / "file").write_bytes(b"")
    result = predict(tiny_model, folder, "--save-rejects", tmp_path / "file", code=2)
    assert "cannot be written to" in result.stderr
    assert result.stdout == ""


def start(*arguments: object) -> subprocess.Popen[str]:
    # A shell that starts a job in the background has it ignore the signal; predict then leaves it so.
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from cada_edge.cli import main; main(sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, "predict", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(
    tiny_model: Path, endless: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    record, video = tmp_path / "line.db", tmp_path / "line.mp4"
    running = start(tiny_model, endless, "--json", "--record", record, "--save-video", video)
    assert running.stdout is not None
    lines = [running.stdout.readline() for _ in range(20)]
    running.send_signal(number)
    # Not communicate(): it reads the pipe itself, and loses what readline has read ahead.
    lines += running.stdout.readlines()
    assert running.stderr is not None
    said = running.stderr.read()
    with running:
        assert running.wait(timeout=60) == code, said
    scores = [json.loads(line)["score"] for line in lines]
    # Every line that was printed is in the record, which was closed: no write-ahead log is left.
    assert sorted(path.name for path in tmp_path.glob("line.db*")) == ["line.db"]
    connection = sqlite3.connect(record)
    assert [row[0] for row in connection.execute("SELECT score FROM verdicts ORDER BY id")] == scores
    connection.close()
    assert f"inspected {len(scores)} frames in" in said
    assert "Traceback" not in said
    capture = cv2.VideoCapture(str(video))
    assert capture.read()[0], "the video was not closed"
    capture.release()


TELLING = """
import os, signal, sys
from cada_edge.cli import main
from cada_edge.runtime.run import Run

stop = Run.stop

def told(run):
    stop(run)
    os.write(2, b"told to stop\\n")

Run.stop = told
signal.signal(signal.SIGINT, signal.default_int_handler)
main(sys.argv[1:])
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_waits_for_nothing(
    tiny_model: Path, endless: Path, tmp_path: Path, first: signal.Signals
) -> None:
    record = tmp_path / "line.db"
    arguments = map(str, ("predict", tiny_model, endless, "--record", record))
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-c", TELLING, *arguments]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True) as running:
        os.close(writer)
        assert running.stderr is not None
        try:
            # Nobody reads: no verdict can be delivered, and an end in order never comes.
            wait_until_full(reader)
            running.send_signal(first)
            assert running.stderr.readline() == "told to stop\n"
            running.send_signal(signal.SIGINT)
            running.wait(timeout=60)
            said = running.stderr.read()
        finally:
            running.kill()
            os.close(reader)
    assert running.returncode == 130, said
    assert "Fatal" not in said
    assert "Traceback" not in said
    # What was put on record is there, and the file was closed.
    assert sorted(path.name for path in tmp_path.glob("line.db*")) == ["line.db"]
    connection = sqlite3.connect(record)
    assert connection.execute("SELECT count(*) FROM verdicts").fetchone()[0] > 5
    connection.close()


def wait_until_full(reader: int) -> None:
    """Wait until the pipe has no room for a further line, and its writer therefore hangs."""
    waiting, seen_s = -1, time.monotonic()
    deadline = seen_s + 60
    while waiting < 2000 or time.monotonic() - seen_s < 1:
        now = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]
        if now != waiting:
            waiting, seen_s = now, time.monotonic()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_that_goes_away_ends_it(tiny_model: Path, endless: Path) -> None:
    running = start(tiny_model, endless)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    with running.stderr as stream:
        said = stream.read()
    assert running.wait(timeout=60) == 0
    assert "Traceback" not in said


def stopped_line(tiny_model: Path, endless: Path, record: Path, **streams: Any) -> tuple[int, int]:
    """Inspect until a hundred verdicts are on record; return the exit code and how many there are then."""
    command = [
        sys.executable,
        "-m",
        "cada_edge",
        "predict",
        *map(str, (tiny_model, endless, "--record", record)),
    ]
    with subprocess.Popen(command, **streams) as running:
        for name in ("stdout", "stderr"):
            stream = getattr(running, name)
            if stream is not None:
                stream.readline()
                stream.close()
        try:
            deadline = time.monotonic() + 60
            while (found := count(record)) < 100:
                assert running.poll() is None, f"ended with {running.returncode} after {found} verdicts"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            running.send_signal(signal.SIGTERM)
            return running.wait(60), count(record)
        finally:
            running.kill()


def count(record: Path) -> int:
    if not record.exists():
        return 0
    connection = sqlite3.connect(f"file:{record}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])
    except sqlite3.OperationalError:  # it is being made
        return 0
    finally:
        connection.close()


def test_a_full_stdout_stops_no_inspection_that_is_recorded(
    tiny_model: Path, endless: Path, tmp_path: Path
) -> None:
    said = tmp_path / "stderr"
    with Path("/dev/full").open("w") as full, said.open("w") as stderr:
        code, verdicts = stopped_line(tiny_model, endless, tmp_path / "line.db", stdout=full, stderr=stderr)
    assert code == 0, said.read_text()
    lines = said.read_text().splitlines()
    assert lines.count("sink_failed: stdout takes no lines: No space left on device") == 1
    assert f"stdout: {verdicts} lines LOST" in lines


def test_readers_that_go_away_stop_no_inspection_that_is_recorded(
    tiny_model: Path, endless: Path, tmp_path: Path
) -> None:
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        code, _ = stopped_line(
            tiny_model, endless, tmp_path / "line.db", stdout=subprocess.PIPE, stderr=stderr
        )
    assert code == 0, said.read_text()
    assert "sink_failed: stdout takes no lines: Broken pipe" in said.read_text()


def test_a_full_stdout_without_a_record_is_an_error(tiny_model: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "cada_edge", "predict", str(tiny_model), str(folder)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "error: Results cannot be written to stdout: No space left on device. Make room, or" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stderr_that_nobody_has_open_changes_no_exit_code(tiny_model: Path, folder: Path) -> None:
    nowhere = "rtsp://127.0.0.1:9/line"
    command = [
        sys.executable,
        "-m",
        "cada_edge",
        "predict",
        str(tiny_model),
        nowhere,
        "--reconnect-limit",
        "0",
    ]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert subprocess.run(command, stderr=writer, check=False).returncode == 4
    finally:
        os.close(writer)


def test_a_lost_source_is_given_up_with_exit_code_4(tiny_model: Path, folder: Path) -> None:
    nowhere = "rtsp://somebody:secret@127.0.0.1:9/line"
    result = predict(tiny_model, folder, nowhere, "--reconnect-limit", 0, code=4)
    # The other source is inspected to its end.
    assert result.stdout.count("Detection(") == 5
    assert "lost: " in result.stderr
    assert "secret" not in result.output
