"""One uninterrupted stretch of measuring one model, and the closed loop that fills it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_frames import FrameSet
from cada_edge.benchmarks.bench_subject import Subject
from cada_edge.runtime.detection import Detection
from cada_edge.runtime.sources import open_source

__all__ = ["STAGES", "Block", "fill_latency", "sink", "stages_of"]

STAGES = ("capture", "preprocess", "host_to_device", "compute", "device_to_host", "post", "sink")
"""Parts of a frame's way, in order; a part that the engine does not measure apart is in none."""


@dataclass
class Block:
    """Samples of one model in the order in which they ended; times are of `time.perf_counter`, in seconds."""

    subject: int
    """Position of the model."""
    first_frame: int = 0
    """Position of the frame that it begins with: the same for all models of a round."""
    started_s: float = 0.0
    """When its first measured frame could begin."""
    ended_s: float = 0.0
    """When its last one had ended."""
    frames: int = 0
    """Frames with a verdict."""
    at_s: list[float] = field(default_factory=list)
    """When each sample began: its call, its capture, or when its frame was due."""
    total_ms: list[float] = field(default_factory=list)
    """How long each took, to the end of the sink."""
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    """Stage -> its part of each sample."""
    rate: float = 0.0
    """Frames a second."""
    engine: str = "unknown"
    """What computed, as its verdicts say."""
    due: int = 0
    """Frames that were due, in camera mode."""
    dropped: int = 0
    """Of those, frames that never had a verdict since a newer one took their place."""
    late: int = 0
    """Frames whose verdict came after their camera's next frame was due."""

    def add(self, at_s: float, total_ms: float, stages_ms: Mapping[str, float], *, frames: int = 1) -> None:
        """Add a sample."""
        self.at_s.append(at_s)
        self.total_ms.append(total_ms)
        for name, value in stages_ms.items():
            self.stages_ms.setdefault(name, []).append(value)
        self.frames += frames


def sink(detection: Detection) -> str:
    """Do with a verdict what an application at least does: write it as a line of JSON."""
    return json.dumps(detection.to_dict())


def stages_of(timings_ms: Mapping[str, float]) -> dict[str, float]:
    """Return a detection's stages; on a CPU the whole inference is the computation."""
    found = {"preprocess": timings_ms["preprocess"], "post": timings_ms["post"]}
    if "compute" in timings_ms:
        for name in ("host_to_device", "compute", "device_to_host"):
            found[name] = timings_ms[name]
    else:
        found["compute"] = timings_ms["inference"]
    return found


def fill_latency(
    block: Block, subject: Subject, frames: FrameSet, config: BenchConfig, seconds: float
) -> None:
    """Call the detector, wait for its answer, and call it again: a closed loop.

    One call before the first sample brings the model back into the caches, which another one may have filled.

    Args:
        block: It is filled as it goes, so that an interruption leaves what was measured.
        subject: What to measure.
        frames: What to show it.
        config: Its batch size.
        seconds: How long; at least one call.
    """
    detector, batch, clock = subject.detector, config.batch, time.perf_counter
    with open_source(frames.cycle(block.first_frame)) as source:

        def call() -> tuple[float, float, dict[str, float]]:
            started_s = clock()
            taken = [next(source) for _ in range(batch)]
            captured_s = clock()
            detections = detector.batch(taken)
            decided_s = clock()
            for detection in detections:
                sink(detection)
            ended_s = clock()
            block.engine = detections[0].backend or "unknown"
            stages: dict[str, Any] = {
                "capture": (captured_s - started_s) * 1e3,
                **stages_of(detections[0].timings_ms),
                "sink": (ended_s - decided_s) * 1e3,
            }
            return started_s, (ended_s - started_s) * 1e3, stages

        call()
        block.started_s = block.ended_s = clock()
        while not block.total_ms or block.ended_s < block.started_s + seconds:
            sample = call()
            block.add(*sample, frames=batch)
            block.ended_s = clock()
            block.rate = block.frames / (block.ended_s - block.started_s)
