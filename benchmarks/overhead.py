"""What the Detector adds to the bare engine call: time on the same loaded engine, memory and import apart.

Times are taken in turns (bare, Detector, Detector, bare, ...), so that a machine that slows down slows both,
and compared pair by pair; nothing is trimmed. The bare call runs on the Detector's own session: a second one
would bring a second thread pool, whose waiting threads take the cores away from the first. It is what an
application would write with the engine alone, preprocessing included where the frame has another size than
the model, without copying the results.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cada_edge.benchmarks.bench_frames import draw_frames
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import BackendError
from cada_edge.runtime.backend import OUTPUT_NAMES
from cada_edge.runtime.backend_onnxruntime import OnnxRuntimeBackend
from cada_edge.runtime.backend_openvino import OpenVinoBackend
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.preprocess import preprocess

__all__ = ["CallFigures", "bare_call", "main", "measure_calls", "measure_import_s", "measure_memory_mib"]

_HD_HW = (720, 1280)
_WARM_UP = 20


@dataclass(frozen=True)
class CallFigures:
    """Times of one kind of frame, in ms."""

    frame_hw: tuple[int, int]
    """Height and width of the frame, in pixels."""
    pairs: int
    """Pairs of calls, all of them counted."""
    bare_p50_ms: float
    """Median of the bare calls."""
    detector_p50_ms: float
    """Median of the Detector's calls."""
    bare_p99_ms: float
    """99th percentile of the bare calls."""
    detector_p99_ms: float
    """99th percentile of the Detector's calls."""
    overhead_ms: float
    """Median of the pairs' differences."""
    ratio: float
    """Median of the pairs' ratios, Detector over bare."""

    @property
    def within_limit(self) -> bool:
        """Whether the overhead is at most 3 % or 0.3 ms, whichever is larger."""
        return self.overhead_ms <= max(0.03 * self.bare_p50_ms, 0.3)


def bare_call(detector: Detector) -> Callable[[NDArray[np.uint8]], Any]:
    """Return the engine's own call on an open detector's session, for a batch of one frame.

    Args:
        detector: Open.

    Raises:
        BackendError: An engine that this benchmark does not know.
    """
    backend = detector._backend
    name = backend.spec.name
    if isinstance(backend, OnnxRuntimeBackend):
        session = backend._session
        return lambda batch: session.run(OUTPUT_NAMES, {name: batch})
    if isinstance(backend, OpenVinoBackend):
        import openvino

        request = backend._request(1)

        def infer(batch: NDArray[np.uint8]) -> None:
            request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
            request.infer()

        return infer
    raise BackendError(
        f"The engine {backend.description} came; wanted onnxruntime or openvino. Pass --backend."
    )


def measure_calls(detector: Detector, frames: Sequence[NDArray[np.uint8]], *, pairs: int) -> CallFigures:
    """Time the Detector's call against the bare one, which has our resize before it where frames need one.

    Args:
        detector: Open.
        frames: uint8 (H, W, 3), BGR, all of one size; each pair takes the next one.
        pairs: How many of each.
    """
    infer, size_hw = bare_call(detector), detector.size_hw
    height, width = frames[0].shape[:2]

    def bare(frame: NDArray[np.uint8]) -> None:
        infer((frame if (height, width) == size_hw else preprocess(frame, size_hw))[np.newaxis])

    calls = bare, detector
    seconds = np.empty((pairs + _WARM_UP, 2))
    for pair in range(pairs + _WARM_UP):
        frame = frames[pair % len(frames)]
        # Each goes first as often as the other: the second finds warm caches.
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            started = time.perf_counter()
            calls[side](frame)
            seconds[pair, side] = time.perf_counter() - started
    times_ms = seconds[_WARM_UP:] * 1e3
    p50, p99 = np.median(times_ms, 0), np.percentile(times_ms, 99, 0)
    return CallFigures(
        frame_hw=(height, width),
        pairs=pairs,
        bare_p50_ms=float(p50[0]),
        detector_p50_ms=float(p50[1]),
        bare_p99_ms=float(p99[0]),
        detector_p99_ms=float(p99[1]),
        overhead_ms=float(np.median(times_ms[:, 1] - times_ms[:, 0])),
        ratio=float(np.median(times_ms[:, 1] / times_ms[:, 0])),
    )


_RESIDENT = """
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        sys.stdout.write(line.split()[1])
"""

_BARE = {
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
def call():
    session.run(None, {"frames": frame[None]})
""",
    "openvino": """
import openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape({"frames": [1, *frame.shape]})
options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
request = core.compile_model(model, "CPU", options).create_infer_request()
def call():
    request.set_input_tensor(openvino.Tensor(frame[None], shared_memory=True))
    request.infer()
""",
}

_DETECTOR = """
from cada_edge import Detector
detector = Detector(sys.argv[1], backend=sys.argv[4]).open()
def call():
    detector(frame)
"""

_FRAME = (
    "import sys\nimport numpy as np\nframe = np.full((int(sys.argv[2]), int(sys.argv[3]), 3), 90, np.uint8)\n"
)


def measure_memory_mib(
    path: Path, backend: str, size_hw: tuple[int, int], *, repeats: int = 3
) -> dict[str, float]:
    """Measure resident memory after 20 calls, each time in a fresh process; Linux only.

    Args:
        path: The model file.
        backend: 'onnxruntime' or 'openvino'.
        size_hw: The model's input height and width, in pixels.
        repeats: Processes of each kind, of which the median is taken.

    Returns:
        MiB of the bare session (without cada_edge and OpenCV), of the Detector on frames of the model's size
        and on 720p frames (which need OpenCV), and both differences.
    """
    kinds = {
        "bare": (_BARE[backend], size_hw),
        "detector": (_DETECTOR, size_hw),
        "detector_720p": (_DETECTOR, _HD_HW),
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (program, hw) in kinds.items():
            script = f"{_FRAME}{program}\nfor _ in range({_WARM_UP}):\n    call()\n{_RESIDENT}"
            command = [sys.executable, "-c", script, str(path), str(hw[0]), str(hw[1]), backend]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(int(done.stdout) / 1024)
    median = {kind: statistics.median(values) for kind, values in found.items()}
    return {
        **median,
        "difference": median["detector"] - median["bare"],
        "difference_720p": median["detector_720p"] - median["bare"],
    }


_TIMED_IMPORTS = {
    "import cada_edge": "import cada_edge",
    "from cada_edge import Detector": "from cada_edge import Detector",
}


def measure_import_s(*, repeats: int = 5) -> dict[str, float]:
    """Measure what importing takes in a fresh process, in seconds.

    Args:
        repeats: Processes of each statement, of which the median is taken; a first one of each is left out,
            which may have to read files from a disk.

    Returns:
        Statement -> seconds.
    """
    found = {}
    for name, statement in _TIMED_IMPORTS.items():
        program = (
            "from time import perf_counter\nstarted = perf_counter()\n"
            f"{statement}\nprint(perf_counter() - started)"
        )
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", program], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(repeats + 1)
        ]
        found[name] = statistics.median(seconds[1:])
    return found


def _text(calls: list[CallFigures], memory: dict[str, float], imports_s: dict[str, float]) -> str:
    lines = [
        f"{each.frame_hw[1]}x{each.frame_hw[0]}: bare {each.bare_p50_ms:.3f} ms, Detector "
        f"{each.detector_p50_ms:.3f} ms (medians of {each.pairs}); overhead {each.overhead_ms:+.3f} ms, "
        f"x{each.ratio:.3f} (medians of pairs): {'within' if each.within_limit else 'over'} 3 % or 0.3 ms"
        for each in calls
    ]
    if memory:
        lines.append(
            f"memory: bare {memory['bare']:.0f} MiB, Detector {memory['difference']:+.0f} MiB, "
            f"{memory['difference_720p']:+.0f} MiB with 720p frames"
        )
    lines += [f"{name}: {seconds:.3f} s" for name, seconds in imports_s.items()]
    return "\n".join(lines)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="auto, openvino or onnxruntime.")
@click.option("--frames", type=int, default=300, show_default=True, help="Pairs of calls per kind of frame.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(model: Path, backend: str, frames: int, as_json: bool) -> None:
    """Compare Detector and bare engine on MODEL: time of a call, memory, and time of an import."""
    with Detector(model, backend=backend) as detector:
        engine = detector.backend
        sizes = (detector.size_hw, _HD_HW)
        calls = [measure_calls(detector, draw_frames(size).images, pairs=frames) for size in sizes]
    memory: dict[str, float] = {}
    if Path("/proc/self/status").exists():
        memory = measure_memory_mib(model, engine.split()[0], sizes[0])
    imports_s = measure_import_s()
    if as_json:
        record = {
            "engine": engine,
            "calls": [{**dataclasses.asdict(each), "within_limit": each.within_limit} for each in calls],
            "memory_mib": memory,
            "import_s": imports_s,
            "machine": describe_machine(),
        }
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo(f"{engine}\n{_text(calls, memory, imports_s)}")


if __name__ == "__main__":
    main()
