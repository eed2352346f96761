"""What a benchmark run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cada_edge.errors import ConfigError

__all__ = ["ALWAYS", "DROP_POLICIES", "MODES", "BenchConfig", "parse_percentiles", "parse_share"]

MODES = {
    "latency": "closed loop, one call in flight",
    "throughput": "pipelined, as fast as it goes",
    "camera": "open loop: a frame is due at its time, whether the last one is done or not",
}
"""Name -> what it means."""

ALWAYS = (50.0, 90.0, 95.0, 99.0)
"""Percentiles that every record has, whichever are shown."""

DROP_POLICIES = ("latest", "block", "drop-oldest")
"""Of `cada_edge.runtime.frame_buffer.DropPolicy`."""


@dataclass(frozen=True)
class BenchConfig:
    """How to measure; one for all models of a call."""

    mode: str = "latency"
    """One of `MODES`."""
    fps: float = 30.0
    """Frames a second of each camera, in camera mode."""
    streams: int = 1
    """Cameras, or sources in throughput mode."""
    batch: int = 1
    """Most frames in one inference."""
    duration_s: float = 10.0
    """Measured time for each model, in seconds."""
    warmup_s: float = 2.0
    """Time of unmeasured calls before it, for each model, in seconds."""
    threads: int | None = None
    """CPU threads; None for the engine's own choice."""
    percentiles: tuple[float, ...] = ALWAYS
    """Shown ones, 0-100, ascending."""
    drop: str = "latest"
    """In camera mode: what becomes of frames that come faster than they are inspected."""
    frame_hw: tuple[int, int] = (720, 1280)
    """Height and width of drawn frames, in pixels."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode {self.mode!r} came; wanted one of {', '.join(MODES)}. Pass --mode.")
        if self.drop not in DROP_POLICIES:
            raise ConfigError(f"drop {self.drop!r} came; wanted one of {', '.join(DROP_POLICIES)}.")
        for name, least, flag in (
            ("fps", 0, "--fps 30"),
            ("duration_s", 0, "--duration 10"),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > least):
                raise ConfigError(f"{name} {value} came; wanted a number above {least}. Pass {flag}.")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise ConfigError(f"warmup_s {self.warmup_s} came; wanted 0 or more seconds. Pass --warmup 2.")
        for name in ("streams", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} {getattr(self, name)} came; wanted a whole number from 1. Pass --{name} 1."
                )
        if self.mode == "latency" and self.streams > 1:
            raise ConfigError(
                f"{self.streams} streams came with the mode latency, where one call is made at a time; "
                "wanted 1. Pass --mode throughput or --mode camera for several."
            )
        if min(self.frame_hw) < 1:
            raise ConfigError(f"the frame size {self.frame_hw} came; wanted at least 1 pixel a side.")
        if not self.percentiles or not all(0 < level < 100 for level in self.percentiles):
            raise ConfigError(
                f"percentiles {self.percentiles} came; wanted numbers between 0 and 100. "
                "Pass --percentiles 50,90,99."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what makes two runs comparable, JSON-safe; options that the mode does not use are None."""
        is_camera = self.mode == "camera"
        return {
            "mode": self.mode,
            "fps": self.fps if is_camera else None,
            "streams": None if self.mode == "latency" else self.streams,
            "batch": self.batch,
            "drop": self.drop if is_camera else None,
            "duration_s": self.duration_s,
            "warmup_s": self.warmup_s,
            "threads": self.threads,
            "percentiles": list(self.percentiles),
        }

    def describe(self) -> str:
        """Say in one line how it was measured."""
        parts = [f"{self.mode} mode ({MODES[self.mode]})", f"batch {self.batch}"]
        if self.mode != "latency":
            parts.append(f"{self.streams} stream{'s' if self.streams > 1 else ''}")
        if self.mode == "camera":
            parts.append(f"{self.fps:g} frames/s each, drop policy {self.drop}")
        parts.append(f"{self.duration_s:g} s a model after {self.warmup_s:g} s of warm-up")
        return ", ".join(parts)


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Read comma-separated percentiles.

    Raises:
        ConfigError: One is no number.

    Example:
        >>> parse_percentiles("99,50,99.9")
        (50.0, 99.0, 99.9)
    """
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise ConfigError(
            f"percentiles {text!r} came; wanted numbers with commas. Pass --percentiles 50,90,99."
        ) from error


def parse_share(text: str) -> float:
    """Read a share as 5% or 0.05.

    Raises:
        ConfigError: It is neither, below 0, or not below 1.

    Example:
        >>> parse_share("5%"), parse_share("0.1")
        (0.05, 0.1)
    """
    try:
        value = float(text.rstrip("% ")) / (100 if text.rstrip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ConfigError(
            f"the tolerance {text!r} came; wanted a share from 0 and below 1, as 5% or 0.05. "
            "Pass --tolerance 5%."
        )
    return value
