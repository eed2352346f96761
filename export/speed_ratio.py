"""How much faster one model file is than another on this machine's CPU, measured in one run."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cada_edge.runtime.backend import Backend, choose_backend

__all__ = ["CPU_BACKENDS", "SpeedRatio", "compare_speed"]

CPU_BACKENDS = ("openvino", "onnxruntime")
"""Engines that run an ONNX file on the CPU, the one that 'auto' prefers first."""

_WARM_UP = 3


@dataclass(frozen=True)
class SpeedRatio:
    """Times of single frames through two files, taken in turns; all pairs count."""

    backend: str
    """Engine, version and device."""
    slow_ms: float
    """Median of the first file's calls, in ms."""
    fast_ms: float
    """Median of the second file's calls, in ms."""
    ratio: float
    """Median of the pairs' ratios: how many times faster the second file is."""
    ratio_low: float
    """Their first quartile."""
    ratio_high: float
    """Their third quartile."""
    pairs: int
    """Calls of each."""

    def to_text(self) -> str:
        """Write it for people, in one line."""
        return (
            f"{self.ratio:.2f}x on {self.backend} ({self.ratio_low:.2f} to {self.ratio_high:.2f} in half of "
            f"{self.pairs} pairs; medians {self.slow_ms:.1f} and {self.fast_ms:.1f} ms)"
        )


def compare_speed(
    slow: Path,
    fast: Path,
    frames: NDArray[np.uint8],
    *,
    pairs: int,
    most_s: float | None = None,
    threads: int | None = None,
    backends: tuple[str, ...] = CPU_BACKENDS,
) -> tuple[SpeedRatio, ...]:
    """Time two ONNX files on every installed engine, one frame at a time, in turns.

    Args:
        slow: The file to compare with.
        fast: The file that is hoped to be faster, for frames of the same size.
        frames: uint8 (N, H, W, 3), BGR; pair after pair takes the next one.
        pairs: Calls of each file.
        most_s: Fewer pairs, but three at least, once an engine has taken so many seconds; None: all.
        threads: As for `Detector`.
        backends: Of `CPU_BACKENDS`; those that are not installed are passed over.

    Returns:
        One record for each engine.

    Raises:
        BackendError: An engine refuses a file.
    """
    found = []
    for name in backends:
        if find_spec(name) is not None:
            with ExitStack() as stack:
                engines = [choose_backend(path, name, threads=threads) for path in (slow, fast)]
                for engine in engines:
                    engine.open()
                    stack.callback(engine.close)
                found.append(_measure(engines, frames, pairs, most_s))
    return tuple(found)


def _measure(
    engines: list[Backend], frames: NDArray[np.uint8], pairs: int, most_s: float | None
) -> SpeedRatio:
    times: list[list[float]] = []
    started = time.perf_counter()
    for pair in range(-_WARM_UP, pairs):
        frame = frames[pair % len(frames)][np.newaxis]
        taken = [0.0, 0.0]
        # Each goes first as often as the other.
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            # Untimed first: the other file's threads still wait busily, and its weights fill the caches.
            engines[side].infer(frame)
            begun = time.perf_counter()
            engines[side].infer(frame)
            taken[side] = time.perf_counter() - begun
        if pair >= 0:
            times.append(taken)
            if most_s is not None and len(times) >= 3 and time.perf_counter() - started > most_s:
                break
    slow_ms, fast_ms = np.array(times).T * 1e3
    low, middle, high = np.percentile(slow_ms / fast_ms, [25, 50, 75])
    return SpeedRatio(
        backend=engines[0].description,
        slow_ms=float(np.median(slow_ms)),
        fast_ms=float(np.median(fast_ms)),
        ratio=float(middle),
        ratio_low=float(low),
        ratio_high=float(high),
        pairs=len(times),
    )
