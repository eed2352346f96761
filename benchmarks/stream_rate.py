"""What a run costs beside the best loop by hand: the same decode, preprocessing and engine call, in turns.

Throughput: a video file, as fast as it goes. By hand it is read by three loops (all in one thread; decode in
a thread of its own; decode, preprocessing and engine each in its own), and the fastest of them counts. The
same without the engine, whose results are copied instead, shows the pipeline alone: it does not drown in what
the engine's own time varies by. Latency: JPEG frames that are due at half the rate of the one-thread loop,
from due to verdict, against decode, preprocessing and engine in one thread at the same pace. Both sides use
the same loaded engine and run in turns, so that a machine that slows down slows both; ratios are taken within
a turn, nothing is trimmed.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.bench_frames import SteadyFrames
from cada_edge.benchmarks.camera_server import jpeg_frames
from cada_edge.benchmarks.hand_loops import LOOPS, HandLoop
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.benchmarks.overhead import bare_call
from cada_edge.runtime.backend import Outputs
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.preprocess import load_cv2, preprocess
from cada_edge.runtime.run_options import RunOptions
from cada_edge.runtime.source_base import Frame

__all__ = [
    "LatencyFigures",
    "RateFigures",
    "main",
    "measure_latency",
    "measure_pipeline",
    "measure_rate",
    "write_video",
]

FRAME_SIZES = ((256, 256), (1080, 1920))
"""Height and width of the frames that are measured, in pixels."""

PARTS = ("rate", "pipeline", "latency")
"""Of the measurement: throughput, the same without the engine, latency at half load."""

RATE_GOAL = 0.95
LATENCY_GOAL = 1.1


@dataclass(frozen=True)
class RateFigures:
    """Frames a second of a run and of loops by hand, on the same video."""

    frame_hw: tuple[int, int]
    """Height and width of the frames, in pixels."""
    frames: int
    """Of the video; each turn reads all of them once by every loop."""
    run_fps: tuple[float, ...]
    """Of the run, a figure a turn."""
    hand_fps: dict[str, tuple[float, ...]]
    """The same of each loop by hand."""

    @property
    def best(self) -> str:
        """Loop by hand with the highest median."""
        return max(self.hand_fps, key=lambda name: statistics.median(self.hand_fps[name]))

    @property
    def ratios(self) -> tuple[float, ...]:
        """Run over the best loop by hand, a figure a turn."""
        return tuple(run / hand for run, hand in zip(self.run_fps, self.hand_fps[self.best], strict=True))

    @property
    def added_ms(self) -> tuple[float, ...]:
        """Time of a frame in the run, less that in the best loop by hand, a figure a turn."""
        hand_fps = self.hand_fps[self.best]
        return tuple(1e3 / run - 1e3 / hand for run, hand in zip(self.run_fps, hand_fps, strict=True))

    @property
    def is_reached(self) -> bool:
        """Whether the median ratio is at least 0.95."""
        return statistics.median(self.ratios) >= RATE_GOAL


@dataclass(frozen=True)
class LatencyFigures:
    """Time from the moment at which a frame is due to its verdict, at half load."""

    frame_hw: tuple[int, int]
    """Height and width of the frames, in pixels."""
    fps: float
    """At which frames were due."""
    run_ms: tuple[float, ...]
    """Median of the run's frames, a figure a turn."""
    hand_ms: tuple[float, ...]
    """The same of decode + preprocessing + engine in one thread."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Run over hand, a figure a turn."""
        return tuple(run / hand for run, hand in zip(self.run_ms, self.hand_ms, strict=True))

    @property
    def is_reached(self) -> bool:
        """Whether the median ratio is at most 1.1."""
        return statistics.median(self.ratios) <= LATENCY_GOAL


def write_video(path: Path, frame_hw: tuple[int, int], frames: int) -> Path:
    """Write an MJPG video of smooth noise.

    Args:
        path: Ends in .avi.
        frame_hw: Height and width, in pixels.
        frames: How many; ten different ones.
    """
    cv2 = load_cv2("Writing videos")
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in jpeg_frames(frame_hw, 10)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, frame_hw[::-1])
    for number in range(frames):
        writer.write(images[number % len(images)])
    writer.release()
    return path


@contextmanager
def _without_engine(detector: Detector) -> Iterator[Callable[[NDArray[np.uint8]], Any]]:
    """Have the detector copy one answer of its engine instead of asking it; give the same for a loop."""
    backend = detector._backend
    answer = backend.infer(np.zeros((1, *detector.size_hw, 3), np.uint8))

    def infer(_: NDArray[np.uint8]) -> Outputs:
        return Outputs(*(each.copy() for each in answer))

    with patch.object(backend, "infer", infer):
        yield infer


def measure_pipeline(detector: Detector, video: Path, *, turns: int) -> RateFigures:
    """Measure throughput as `measure_rate` does, without the engine's time."""
    with _without_engine(detector) as infer:
        return _measure_rate(detector, video, infer, turns)


def measure_rate(detector: Detector, video: Path, *, turns: int) -> RateFigures:
    """Measure throughput.

    Args:
        detector: Open.
        video: A file that OpenCV reads.
        turns: How many times each loop reads it.
    """
    return _measure_rate(detector, video, bare_call(detector), turns)


def _measure_rate(
    detector: Detector, video: Path, infer: Callable[[NDArray[np.uint8]], Any], turns: int
) -> RateFigures:
    size_hw = detector.size_hw
    found: dict[str, list[float]] = {name: [] for name in ("run", *LOOPS)}
    frame_hw, frames = (0, 0), 0

    def one(name: str) -> float:
        nonlocal frame_hw, frames
        started = time.perf_counter()
        if name == "run":
            run = detector.run(video, options=RunOptions(policy="block"))
            run.join()
            frames = run.stats.inspected
        else:
            loop: HandLoop = LOOPS[name]
            frames, frame_hw = loop(video, lambda image: preprocess(image, size_hw)[np.newaxis], infer)
        return frames / (time.perf_counter() - started)

    for name in found:
        one(name)  # warm up
    for turn in range(turns):
        names = list(found)
        # Each goes first as often as any other: the next one finds warm caches.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(one(name))
    hand = {name: tuple(found[name]) for name in LOOPS}
    return RateFigures(frame_hw, frames, tuple(found["run"]), hand)


def measure_latency(
    detector: Detector, frame_hw: tuple[int, int], *, frames: int, turns: int
) -> LatencyFigures:
    """Measure the latency at half load.

    Args:
        detector: Open.
        frame_hw: Height and width of the frames, in pixels.
        frames: In each turn, on each side.
        turns: How many.
    """
    cv2, infer = load_cv2("Reading frames"), bare_call(detector)
    encoded = [np.frombuffer(data, np.uint8) for data in jpeg_frames(frame_hw, 10)]

    def step(number: int) -> None:
        image = cv2.imdecode(encoded[number % len(encoded)], cv2.IMREAD_COLOR)
        infer(preprocess(image, detector.size_hw)[np.newaxis])

    def paced(fps: float, work: Callable[[int, float], None]) -> None:
        started = time.monotonic()
        for number in range(frames):
            due = started + number / fps
            time.sleep(max(0.0, due - time.monotonic()))
            work(number, max(due, time.monotonic()))

    def by_hand(fps: float) -> float:
        latencies: list[float] = []

        def work(number: int, due: float) -> None:
            step(number)
            latencies.append(time.monotonic() - due)

        paced(fps, work)
        return 1e3 * statistics.median(latencies)

    def by_run(fps: float) -> float:
        latencies: list[float] = []

        def camera() -> Iterator[Frame]:
            started = time.monotonic()
            for number in range(frames):
                due = started + number / fps
                time.sleep(max(0.0, due - time.monotonic()))
                at = max(due, time.monotonic())
                image = cv2.imdecode(encoded[number % len(encoded)], cv2.IMREAD_COLOR)
                yield Frame(image, number, "camera", time.time(), at)

        detector.run(
            SteadyFrames(camera(), source_id="camera"),
            on_result=lambda _, frame: latencies.append(time.monotonic() - frame.captured_monotonic_s),
            options=RunOptions(policy="latest"),
        ).join()
        return 1e3 * statistics.median(latencies)

    for number in range(5):
        step(number)
    started = time.perf_counter()
    for number in range(10):
        step(number)
    fps = 0.5 * 10 / (time.perf_counter() - started)
    run_ms: list[float] = []
    hand_ms: list[float] = []
    for turn in range(turns):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            (run_ms if side else hand_ms).append(by_run(fps) if side else by_hand(fps))
    return LatencyFigures(frame_hw, fps, tuple(run_ms), tuple(hand_ms))


def _spread(ratios: tuple[float, ...]) -> str:
    return f"x{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f} over {len(ratios)} turns)"


def _rate_line(rate: RateFigures) -> str:
    hands = ", ".join(f"{name} {statistics.median(fps):.1f}" for name, fps in rate.hand_fps.items())
    return (
        f"{rate.frame_hw[1]}x{rate.frame_hw[0]}: run {statistics.median(rate.run_fps):.1f} frames/s; "
        f"by hand: {hands}; run over the best, {rate.best}: {_spread(rate.ratios)}: "
        f"{'reaches' if rate.is_reached else 'MISSES'} {RATE_GOAL}"
    )


def _pipeline_line(rate: RateFigures) -> str:
    best_ms = 1e3 / statistics.median(rate.hand_fps[rate.best])
    added = rate.added_ms
    return (
        f"{rate.frame_hw[1]}x{rate.frame_hw[0]} without the engine: run "
        f"{1e3 / statistics.median(rate.run_fps):.2f} ms a frame; best by hand, {rate.best}, "
        f"{best_ms:.2f}; {statistics.median(added):+.2f} ms ({min(added):+.2f} to {max(added):+.2f} over "
        f"{len(added)} turns)"
    )


def _latency_line(each: LatencyFigures) -> str:
    return (
        f"{each.frame_hw[1]}x{each.frame_hw[0]} at {each.fps:.1f} frames/s: verdict after "
        f"{statistics.median(each.run_ms):.2f} ms; decode + preprocessing + engine "
        f"{statistics.median(each.hand_ms):.2f} ms; {_spread(each.ratios)}: "
        f"{'within' if each.is_reached else 'OVER'} {LATENCY_GOAL}"
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="auto, openvino or onnxruntime.")
@click.option("--threads", type=int, default=None, help="Of the engine; its own choice by default.")
@click.option("--frames", type=int, default=150, show_default=True, help="In each turn.")
@click.option("--turns", type=int, default=7, show_default=True, help="Of each measurement.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    default=PARTS,
    show_default=True,
    help="What to measure; repeat for several.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    model: Path,
    backend: str,
    threads: int | None,
    frames: int,
    turns: int,
    parts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare a run with the best loop by hand on MODEL: throughput, and latency at half load."""
    rates: list[RateFigures] = []
    pipelines: list[RateFigures] = []
    latencies: list[LatencyFigures] = []
    with Detector(model, backend=backend, threads=threads) as detector, tempfile.TemporaryDirectory() as name:
        engine = detector.backend
        # Each line as soon as it is known: all of them take minutes. With --json only the record is printed.
        click.echo(engine, err=as_json)
        for loop_name, loop in LOOPS.items():
            click.echo(f"by hand, {loop_name}: {loop.__doc__}", err=as_json)
        for hw in FRAME_SIZES:
            video = write_video(Path(name, f"{hw[0]}.avi"), hw, frames)
            if "rate" in parts:
                rates.append(measure_rate(detector, video, turns=turns))
                click.echo(_rate_line(rates[-1]), err=as_json)
            if "pipeline" in parts:
                pipelines.append(measure_pipeline(detector, video, turns=turns))
                click.echo(_pipeline_line(pipelines[-1]), err=as_json)
        for hw in FRAME_SIZES if "latency" in parts else ():
            latencies.append(measure_latency(detector, hw, frames=frames, turns=turns))
            click.echo(_latency_line(latencies[-1]), err=as_json)
    if as_json:
        judged = [*(each.is_reached for each in rates), *(each.is_reached for each in latencies)]
        record = {
            "engine": engine,
            "threads_by_hand": {name: loop.__doc__ for name, loop in LOOPS.items()},
            "rates": [{**dataclasses.asdict(each), "ratios": each.ratios} for each in rates],
            "pipelines": [{**dataclasses.asdict(each), "added_ms": each.added_ms} for each in pipelines],
            "latencies": [{**dataclasses.asdict(each), "ratios": each.ratios} for each in latencies],
            "reached": all(judged) if judged else None,
            "machine": describe_machine(),
        }
        click.echo(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
