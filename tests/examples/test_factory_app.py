"""The factory application as its user runs it: a process with two cameras that are real streams over HTTP."""

from __future__ import annotations

import runpy
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cada_edge.benchmarks.camera_server import CameraServer, ServedCamera

ROOT = Path(__file__).parents[2]
CONFTEST = ROOT / "tests" / "runtime" / "conftest.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The runtime tests' tiny model: the score is the brightness, the threshold 0.5."""
    path: Path = runpy.run_path(str(CONFTEST))["_write_tiny_model"](tmp_path / "tiny.onnx")
    return path


def flat(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((32, 32, 3), value, np.uint8))[1].tobytes()


def test_two_cameras_are_inspected_recorded_and_stopped_in_order(model: Path, tmp_path: Path) -> None:
    dark, bright = flat(20), flat(230)
    with (
        CameraServer(ServedCamera((dark,), fps=60)) as left,
        CameraServer(ServedCamera((dark, bright), fps=60)) as right,
    ):
        command = [sys.executable, str(ROOT / "examples" / "factory_app.py"), str(model), left.url, right.url]
        running = subprocess.Popen(
            [*command, str(tmp_path / "verdicts.db")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(8)]
        running.send_signal(signal.SIGTERM)
        # Not communicate(): it reads the pipe itself, and loses what readline has read ahead.
        lines += running.stdout.readlines()
        assert running.stderr is not None
        said = running.stderr.read()
        with running:
            assert running.wait(timeout=60) == 0, said
    assert set(lines[:-1]) == {f"REJECT {right.url}\n"}
    connection = sqlite3.connect(tmp_path / "verdicts.db")
    found = dict(
        connection.execute("SELECT source, count(*) FROM verdicts GROUP BY source ORDER BY source").fetchall()
    )
    rejected = connection.execute("SELECT count(*) FROM verdicts WHERE anomalous").fetchone()[0]
    connection.close()
    assert set(found) == {left.url, right.url}
    assert lines[-1] == f"{sum(found.values())} inspected, {rejected} rejected\n"
    assert rejected == len(lines) - 1
    assert not (tmp_path / "verdicts.db-wal").exists(), "the database was not closed"
    assert f"opened: {left.url} is open" in said
    assert "Traceback" not in said


def test_it_is_as_short_as_it_claims_to_be() -> None:
    text = (ROOT / "examples" / "factory_app.py").read_text()
    assert len(text.splitlines()) <= 45
