"""A stream of any length needs no more memory than a short one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FRAMES, WARM_UP = 2_000, 300

PROGRAM = f"""
import gc, sys
from pathlib import Path
import numpy as np
from cada_edge import Detector

def resident_kib():
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

rng = np.random.default_rng(0)
def frames():
    for _ in range({FRAMES}):
        yield rng.integers(0, 256, (64, 64, 3), np.uint8)

with Detector(sys.argv[1], backend=sys.argv[2]) as detector:
    for number, detection in enumerate(detector.stream(frames()), 1):
        if number == {WARM_UP}:
            before = resident_kib()
    assert number == {FRAMES}, number
    print(resident_kib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux has it")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_long_stream_does_not_grow(tiny_model: Path, backend: str) -> None:
    pytest.importorskip(backend)
    # In a process of its own: what other tests keep or free is not counted.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model), backend], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Kept frames would be 20 MiB, kept batches and maps 2.9 MiB more.
    assert int(done.stdout) < 3 * 1024, f"grew by {done.stdout.strip()} KiB over {FRAMES - WARM_UP} frames"
