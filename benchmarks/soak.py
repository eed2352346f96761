"""A run for minutes or hours: does memory grow, is every frame accounted for, is every verdict on the disk?

    python -m cada_edge.benchmarks.soak MODEL --minutes 30

Two network cameras whose line is cut now and then (MJPEG over HTTP, from processes of their own), and three
sources in this process, one of each policy: newest frame, queue of four, no frame dropped. The listener is
slow at times; verdicts go to SQLite and JSON Lines, rejects to a folder with a size limit. What is a reject
is decided by a threshold of the soak's own, with which every model has some.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cada_edge.runtime.detection import Detection
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.frame_buffer import DropPolicy
from cada_edge.runtime.inspection_log import InspectionLog
from cada_edge.runtime.live_source import Reconnect
from cada_edge.runtime.run import Run
from cada_edge.runtime.run_options import RunOptions
from cada_edge.runtime.source_base import Frame, Source
from cada_edge.runtime.sources import open_source
from cada_edge.runtime.stream_events import StatusEvent, StreamCounts

__all__ = ["SoakFigures", "main", "soak"]

GROWTH_LIMIT_MIB = 16.0
"""Of resident memory after the warm-up. One 640x480 frame in ten that is kept is 18 MiB within 200 frames."""

_POLICIES: dict[str, tuple[DropPolicy, int]] = {
    "newest": ("latest", 1),
    "queue of four": ("drop-oldest", 4),
    "every frame": ("block", 2),
}
_REJECTS_LIMIT_BYTES = 2 << 20


@dataclass(frozen=True)
class SoakFigures:
    """What was seen."""

    minutes: float
    """How long it ran."""
    inspected: int
    """Frames with a verdict."""
    counts: dict[str, dict[str, int]]
    """Name of a source -> what became of its frames, after the end."""
    looks: int
    """Times at which every source's counts were added up while it ran."""
    reconnects: int
    """Times at which a cut line was there again."""
    memory_mib: tuple[float, ...]
    """Resident memory, a figure a second."""
    growth_mib: float
    """Of it: the median of the last fifth less that of the fifth after the warm-up (the first fifth)."""
    failures: tuple[str, ...]
    """What must not be; none when it passed."""


def resident_mib() -> float:
    """Return this process's resident memory, in MiB; Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def soak(
    model: Path,
    *,
    minutes: float,
    folder: Path,
    fps: float = 30.0,
    frame_hw: tuple[int, int] = (480, 640),
    cut_every_s: float = 20.0,
) -> SoakFigures:
    """Run it.

    Args:
        model: An exported model.
        minutes: How long, above 0.
        folder: For record and rejects.
        fps: Of each source, frames a second.
        frame_hw: Height and width of the frames, in pixels.
        cut_every_s: Time after which the line of each network camera is cut, in seconds.
    """
    events: dict[str, int] = {}

    def on_status(event: StatusEvent) -> None:
        events[event.kind] = events.get(event.kind, 0) + 1

    rng = random.Random(0)

    def on_result(detection: Detection, frame: Frame) -> None:
        log.put(detection, frame)
        if rng.random() < 0.02:
            time.sleep(0.03)

    ends_s = time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        urls = [stack.enter_context(_camera(fps, frame_hw, cut_every_s)) for _ in range(2)]
        detector = stack.enter_context(Detector(model, threshold=_threshold_between(model, frame_hw)))
        log = stack.enter_context(
            InspectionLog(
                detector,
                records=[folder / "verdicts.db", folder / "verdicts.jsonl"],
                rejects=folder / "rejects",
                rejects_limit_bytes=_REJECTS_LIMIT_BYTES,
                on_status=on_status,
            )
        )
        run = detector.run(
            *urls,
            *_sources_here(fps, frame_hw),
            on_result=on_result,
            on_status=on_status,
            options=RunOptions(batch=4, reconnect=Reconnect(0.1, 1.0)),
        )
        with run:
            memory, looks, failures = _watch(run, ends_s)
        kept = log.close()
    stats = run.stats
    growth = _growth(memory)
    failures += _check_end(stats.sources, stats.inspected, folder)
    # Pictures are best effort; verdicts are not.
    failures += [
        f"{name}: {each.lost} lost" for name, each in kept.items() if each.lost and "rejects" not in name
    ]
    if growth > GROWTH_LIMIT_MIB:
        failures.append(f"memory grew by {growth:.1f} MiB; at most {GROWTH_LIMIT_MIB:g} are noise")
    return SoakFigures(
        minutes=minutes,
        inspected=stats.inspected,
        counts={name: counts.to_dict() for name, counts in stats.sources.items()},
        looks=looks,
        reconnects=events.get("opened", 0) - len(urls),
        memory_mib=tuple(memory),
        growth_mib=growth,
        failures=tuple(failures),
    )


def _threshold_between(model: Path, frame_hw: tuple[int, int]) -> float:
    """Return a threshold that parts bright frames from the others, so that any model has rejects."""
    frames = _frames(1e6, frame_hw, 0)
    with Detector(model, threshold=0.0) as detector:
        bright, other = (detector(frame).score for frame in itertools.islice(frames, 2))
    return (bright + other) / 2


class _camera:
    """A network camera in a process of its own; gives its address."""

    def __init__(self, fps: float, frame_hw: tuple[int, int], cut_every_s: float) -> None:
        size = f"{frame_hw[0]}x{frame_hw[1]}"
        command = [sys.executable, "-m", "cada_edge.benchmarks.camera_server", "0", "--size", size]
        cut_every = max(1, round(cut_every_s * fps))
        self._process = subprocess.Popen(
            [*command, "--fps", str(fps), "--cut-every", str(cut_every)], stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(self._process.stdout.readline())}/line.mjpg"

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def _sources_here(fps: float, frame_hw: tuple[int, int]) -> list[Source]:
    return [
        open_source(_frames(fps, frame_hw, seed), source_id=name, policy=policy, capacity=capacity)
        for seed, (name, (policy, capacity)) in enumerate(_POLICIES.items())
    ]


def _frames(fps: float, frame_hw: tuple[int, int], seed: int) -> Iterator[NDArray[Any]]:
    """Give a new array a frame, every twentieth of them bright: nobody may keep it."""
    noise = np.random.default_rng(seed).integers(0, 128, (*frame_hw, 3), np.uint8)
    number, started = 0, time.monotonic()
    while True:
        yield noise + np.uint8(120 * (number % 20 == 0))
        number += 1
        time.sleep(max(0.0, started + number / fps - time.monotonic()))


def _watch(run: Run, ends_s: float) -> tuple[list[float], int, list[str]]:
    """Add up every source's counts again and again, and take the memory once a second."""
    memory: list[float] = []
    failures: list[str] = []
    looks, next_s = 0, time.monotonic()
    while time.monotonic() < ends_s and run.is_alive:
        for name, counts in run.stats.sources.items():
            held = counts.delivered + counts.dropped + counts.corrupt + counts.waiting
            if held != counts.captured and len(failures) < 5:
                failures.append(f"{name}: {counts} does not add up")
        looks += 1
        if time.monotonic() >= next_s:
            memory.append(resident_mib())
            next_s += 1.0
        time.sleep(0.01)
    if not run.is_alive:
        failures.append("the run ended by itself")
    return memory, looks, failures


def _growth(memory: list[float]) -> float:
    fifth = max(1, len(memory) // 5)
    return statistics.median(memory[-fifth:]) - statistics.median(memory[fifth : 2 * fifth] or memory[-1:])


def _check_end(sources: dict[str, StreamCounts], inspected: int, folder: Path) -> list[str]:
    failures = []
    for name, counts in sources.items():
        if counts.waiting or counts.captured != counts.delivered + counts.dropped + counts.corrupt:
            failures.append(f"{name}: after the end {counts}")
        if not counts.delivered:
            failures.append(f"{name}: no frame was inspected")
        if name == "every frame" and counts.captured - counts.delivered > 3:
            failures.append(f"{name}: {counts.dropped} frames were dropped before the end")
    delivered = sum(counts.delivered for counts in sources.values())
    connection = sqlite3.connect(folder / "verdicts.db")
    rows, dropped = connection.execute("SELECT count(*), sum(dropped) FROM verdicts").fetchone()
    connection.close()
    with (folder / "verdicts.jsonl").open("rb") as file:
        lines = sum(1 for _ in file)
    if not inspected == delivered == rows == lines:
        failures.append(f"{delivered} taken, {inspected} inspected, {rows} rows, {lines} lines")
    if dropped > sum(counts.dropped for counts in sources.values()):
        failures.append(f"the record knows of {dropped} drops, the sources of fewer")
    size = sum(path.stat().st_size for path in (folder / "rejects").iterdir())
    if not 0 < size <= _REJECTS_LIMIT_BYTES:
        failures.append(f"the rejects are {size} bytes of at most {_REJECTS_LIMIT_BYTES}")
    return failures


def _text(figures: SoakFigures) -> str:
    lines = [
        f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())
        for name, counts in figures.counts.items()
    ]
    lines += [
        f"{figures.inspected} frames in {figures.minutes:g} minutes; counts added up {figures.looks} times; "
        f"{figures.reconnects} reconnects; memory {figures.memory_mib[-1]:.0f} MiB, "
        f"{figures.growth_mib:+.1f} MiB since the warm-up (limit {GROWTH_LIMIT_MIB:g})",
        *(f"FAILED: {failure}" for failure in figures.failures),
    ]
    return "\n".join([*lines, "failed" if figures.failures else "passed"])


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--minutes", type=float, default=30.0, show_default=True, help="How long.")
@click.option("--fps", type=float, default=30.0, show_default=True, help="Of each of the five sources.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(model: Path, minutes: float, fps: float, as_json: bool) -> None:
    """Inspect five sources with MODEL for minutes, and say whether memory grew or a frame was lost.

    Exit code 1 when it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        figures = soak(model, minutes=minutes, fps=fps, folder=Path(name))
    click.echo(json.dumps(dataclasses.asdict(figures), indent=2) if as_json else _text(figures))
    if figures.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
