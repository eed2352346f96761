"""Measure models in turns: warm-up, blocks of one after the other, and what the machine did meanwhile."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge import __version__
from cada_edge.benchmarks.bench_blocks import Block, fill_latency
from cada_edge.benchmarks.bench_config import BenchConfig
from cada_edge.benchmarks.bench_figures import compare_subjects, figures_of
from cada_edge.benchmarks.bench_frames import FrameSet, draw_frames, read_frames
from cada_edge.benchmarks.bench_monitor import Monitor
from cada_edge.benchmarks.bench_noise import find_noise
from cada_edge.benchmarks.bench_pipeline import fill_camera, fill_throughput
from cada_edge.benchmarks.bench_subject import Subject, open_subjects
from cada_edge.benchmarks.gpu_outcomes import describe_gpu_machine
from cada_edge.errors import ConfigError

__all__ = ["SCHEMA", "plan_blocks", "run_bench"]

SCHEMA = "cada-edge bench 2"
"""Of the record; another number is another form."""

_FILL: dict[str, Callable[[Block, Subject, FrameSet, BenchConfig, float], None]] = {
    "latency": fill_latency,
    "throughput": fill_throughput,
    "camera": fill_camera,
}

_BLOCK_S = {"latency": 0.5, "throughput": 2.0, "camera": 2.0}
"""Length of a block where several models take turns. Long, since threads of the engine that has just run wait
for more work for a while and its weights fill the caches: alternating call by call would measure that. Short,
since a machine that slows down or heats up should do so for all of them alike."""

_FEWEST_ROUNDS, _MOST_ROUNDS = 6, 40
"""Blocks of each model: six pairs are the fewest that give their median's ratio an interval."""
_FEWEST_OF_SLOW = 3
_CALLS_A_BLOCK = 4
"""Fewest calls in a block, as far as the time allows."""

_FRAMES_ON = 13
"""From a round's first frame to the next one's, so that short blocks see them all in time."""

Progress = Callable[[str, int, int], None]


@dataclass
class _Measured:
    """What has been measured so far."""

    blocks: list[Block] = field(default_factory=list)
    warm_ups: list[Block] = field(default_factory=list)
    interruption: KeyboardInterrupt | None = None
    turns: str | None = None


def plan_blocks(subjects: int, config: BenchConfig, *, call_s: float = 0.0) -> tuple[list[int], float]:
    """Return in which order models are measured, and how long each block is, in seconds.

    Every second round runs backwards (A B, B A, A B, ...): what changes steadily then weighs on all alike.

    Args:
        subjects: How many models.
        config: Its mode and duration.
        call_s: Time of the slowest model's call, in seconds: slow ones have fewer blocks, which are longer.

    Example:
        >>> plan_blocks(2, BenchConfig(duration_s=3))
        ([0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0], 0.5)
        >>> plan_blocks(1, BenchConfig(duration_s=3))
        ([0], 3)
    """
    if subjects == 1:
        return [0], config.duration_s
    block_s = _BLOCK_S[config.mode]
    if _CALLS_A_BLOCK * call_s * _FEWEST_ROUNDS > config.duration_s:
        rounds = max(_FEWEST_OF_SLOW, round(config.duration_s / (_CALLS_A_BLOCK * call_s)))
    else:
        block_s = max(block_s, _CALLS_A_BLOCK * call_s)
        rounds = min(_MOST_ROUNDS, max(_FEWEST_ROUNDS, round(config.duration_s / block_s)))
    backwards = list(reversed(range(subjects)))
    order = [place for turn in range(rounds) for place in (backwards if turn % 2 else range(subjects))]
    return order, config.duration_s / rounds


def run_bench(
    models: Sequence[str | Path],
    config: BenchConfig,
    *,
    backends: Sequence[str] = (),
    source: Path | None = None,
    progress: Progress | None = None,
    on_interrupt: Callable[[KeyboardInterrupt], None] | None = None,
) -> dict[str, Any]:
    """Measure every model on every backend.

    Args:
        models: Model files.
        config: How.
        backends: None for 'auto'.
        source: Where frames come from; None draws them.
        progress: Called with what is done, blocks done and blocks in all.
        on_interrupt: Called with the Ctrl-C that ended it, if one did.

    Returns:
        The record, JSON-safe. After a Ctrl-C it has `interrupted` set and holds what was measured until then.

    Raises:
        KeyboardInterrupt: Ctrl-C before anything was measured.
        ConfigError: No model, a backend that does not go with one, or frames that do not fit.
        ModelError: A model cannot be loaded, or fails.
    """
    tell = progress or (lambda what, done, total: None)
    with open_subjects(models, backends, threads=config.threads) as subjects:
        frames = _frames_for(subjects, config, source)
        measured = _Measured()
        monitor = Monitor()
        started = datetime.datetime.now(datetime.timezone.utc)
        _measure(measured, subjects, frames, config, monitor, tell)
        machine = {**describe_gpu_machine(), **monitor.read()}
        records = []
        for number, subject in enumerate(subjects):
            own = [block for block in measured.blocks if block.subject == number and block.total_ms]
            if not own:
                continue
            warm_up = next((block for block in measured.warm_ups if block.subject == number), None)
            on_gpu = subject.detector.manifest.format == "engine"
            curves = [curve for curve in monitor.curves if on_gpu or not curve.of_gpu]
            figures = figures_of(own, warm_up, config, curves)
            records.append({"label": subject.label, "model": subject.identity(own[-1].engine), **figures})
    if not records:
        raise measured.interruption or KeyboardInterrupt
    if measured.interruption is not None and on_interrupt is not None:
        on_interrupt(measured.interruption)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "started_at": started.isoformat(timespec="seconds"),
        "interrupted": measured.interruption is not None,
        "config": config.to_dict(),
        "how": config.describe(),
        "interleaved": measured.turns,
        "frames": frames.to_dict(),
        "machine": machine,
        "subjects": records,
        "ratios": compare_subjects([each["label"] for each in records], measured.blocks, config),
        "gates": [],
    }
    record["warnings"] = find_noise(record)
    return record


def _measure(
    measured: _Measured,
    subjects: Sequence[Subject],
    frames: FrameSet,
    config: BenchConfig,
    monitor: Monitor,
    tell: Progress,
) -> None:
    """Warm every model up, then measure them in turns; a Ctrl-C ends it with what there is."""
    fill = _FILL[config.mode]
    try:
        for number, subject in enumerate(subjects):
            tell(f"warm-up {subject.label}", number, len(subjects))
            if config.warmup_s > 0:
                measured.warm_ups.append(Block(number))
                fill(measured.warm_ups[-1], subject, frames, config, config.warmup_s)
        calls_ms = [float(np.median(block.total_ms)) for block in measured.warm_ups if block.total_ms]
        slowest_s = max(calls_ms, default=0.0) / 1e3 if config.mode == "latency" else 0.0
        order, block_s = plan_blocks(len(subjects), config, call_s=slowest_s)
        if len(subjects) > 1:
            rounds = len(order) // len(subjects)
            measured.turns = (
                f"in turns, {rounds} blocks of {block_s:.2g} s each, every second round backwards"
            )
        with monitor:
            for done, number in enumerate(order):
                tell(f"measure {subjects[number].label}", done, len(order))
                measured.blocks.append(Block(number, done // len(subjects) * _FRAMES_ON))
                monitor.mark()
                fill(measured.blocks[-1], subjects[number], frames, config, block_s)
                monitor.mark()
    except KeyboardInterrupt as interruption:
        measured.interruption = interruption


def _frames_for(subjects: Sequence[Subject], config: BenchConfig, source: Path | None) -> FrameSet:
    """Draw or read frames that every model takes."""
    wanted = {subject.detector.frame_hw for subject in subjects} - {None}
    if len(wanted) > 1:
        sizes = " and ".join(sorted(f"{hw[0]}x{hw[1]}" for hw in wanted if hw is not None))
        raise ConfigError(
            f"Models for frames of {sizes} came; wanted one size, so that all see the same frames. "
            "Measure them apart, and compare the records with: cada-edge bench --compare A.json B.json"
        )
    fixed = next(iter(wanted), None)
    frames = draw_frames(fixed or config.frame_hw) if source is None else read_frames(source)
    if fixed is not None and any(image.shape[:2] != fixed for image in frames.images):
        raise ConfigError(
            f"Frames of {', '.join(frames.sizes)} came for a model that takes {fixed[1]}x{fixed[0]} only; "
            "wanted that size. Leave --source out, or give frames of that camera."
        )
    return frames
