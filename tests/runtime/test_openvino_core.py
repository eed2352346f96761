"""The one OpenVINO core: what Ctrl-C does to an application that closed a detector in another thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="pip install 'cada-edge[cpu]'")

_APPLICATION = """
import gc
import signal
import sys
import threading

import numpy as np

from cada_edge import Detector

# A shell that starts a job in the background has it ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
detector = Detector(sys.argv[1], backend="openvino").open()
detector(np.zeros((64, 64, 3), np.uint8))
closing = threading.Thread(target=detector.close)
closing.start()
closing.join()
del detector
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    sys.stdout.write("interrupted")
"""


def test_ctrl_c_after_a_detector_was_closed_in_another_thread(tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _APPLICATION, str(tiny_model)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "interrupted"), done.stderr
