"""Two files in turns: what is counted, and that neither order nor machine enters the ratio."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from cada_edge.export import speed_ratio
from cada_edge.export.speed_ratio import compare_speed
from cada_edge.runtime.backend import Outputs

pytestmark = pytest.mark.alone

FRAMES = np.zeros((3, 2, 2, 3), np.uint8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put doubles in the place of engines and clock: real calls take no known time."""
    now_s = [0.0]
    called: list[str] = []

    class Engine:
        def __init__(self, path: Path, name: str) -> None:
            self._path = path
            self.description = f"{name} 1.0 CPU"

        def open(self) -> None:
            called.append(f"open {self._path.stem}")

        def infer(self, frames: np.ndarray) -> Outputs:
            assert frames.shape == (1, 2, 2, 3)
            called.append(self._path.stem)
            # The machine slows down while it is measured.
            now_s[0] += (1 + 0.1 * len(called)) * {"slow": 30e-3, "fast": 10e-3}[self._path.stem]
            empty = np.empty(0, np.float32)
            return Outputs(empty, empty, empty)

        def close(self) -> None:
            called.append(f"close {self._path.stem}")

    monkeypatch.setattr(speed_ratio, "choose_backend", lambda path, name, threads: Engine(path, name))
    monkeypatch.setattr(speed_ratio, "find_spec", lambda name: None if name == "onnxruntime" else object())
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    return called


def test_pairs_in_turns_each_call_after_one_of_its_own(calls: list[str]) -> None:
    (found,) = compare_speed(Path("slow.onnx"), Path("fast.onnx"), FRAMES, pairs=4)
    assert (found.backend, found.pairs) == ("openvino 1.0 CPU", 4)
    assert found.ratio_low < found.ratio < found.ratio_high
    assert 2.8 < found.ratio < 3.2
    assert found.slow_ms / found.fast_ms == pytest.approx(found.ratio, rel=0.1)
    assert calls[:2] + calls[-2:] == ["open slow", "open fast", "close fast", "close slow"]
    inner = calls[2:-2]
    assert len(inner) == (3 + 4) * 4
    assert inner[-8:] == ["slow", "slow", "fast", "fast", "fast", "fast", "slow", "slow"]
    assert "x on openvino 1.0 CPU (" in found.to_text()


def test_time_ends_it_after_three_pairs(calls: list[str]) -> None:
    (found,) = compare_speed(Path("slow.onnx"), Path("fast.onnx"), FRAMES, pairs=100, most_s=1e-3)
    assert found.pairs == 3
