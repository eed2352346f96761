"""Latency beside anomalib's OpenVINO inferencer on the same network, each in a process of its own.

::

    python -m cada_edge.benchmarks.beside_anomalib model.onnx model-int8.onnx --environment anomalib-env

anomalib is installed into an environment of its own, once: it brings PyTorch and Lightning. There its
ReverseDistillation is made with the encoder of the first model and random weights, which do not change what
is computed, and exported to OpenVINO for the camera's frames, resizing and normalisation in the graph. Both
sides take the same frames in turns, block by block; ratios are taken within a turn, nothing is trimmed.

OpenVINO computes in bf16 on processors that have it unless it is told otherwise. anomalib does not tell it,
ours does, since bf16 is beyond every parity limit: so anomalib is measured as it comes and in fp32.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from cada_edge.benchmarks.bench_frames import FrameSet, draw_frames
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import BackendError, CadaEdgeError
from cada_edge.manifest import Manifest
from cada_edge.runtime.detector import Detector

__all__ = ["PEER", "PeerFigures", "main", "make_environment", "measure"]

REQUIREMENT = "anomalib[openvino]==2.7.*"

PEER = """
import json, sys, time
import numpy as np
import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.models import ReverseDistillation

folder, encoder, precision = sys.argv[1:]
frames = np.load(f"{folder}/frames.npy")
torch.manual_seed(0)
model = ReverseDistillation(backbone=encoder, pre_trained=False)
path = model.to_openvino(folder, input_size=frames.shape[1:3])
config = {"PERFORMANCE_HINT": "LATENCY"}
if precision != "default":
    config["INFERENCE_PRECISION_HINT"] = precision
inferencer = OpenVINOInferencer(path, device="CPU", config=config)
print(json.dumps(inferencer.model.get_property("INFERENCE_PRECISION_HINT").to_string()), flush=True)
number = 0
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        frame = frames[number % len(frames)]
        number += 1
        started = time.perf_counter()
        inferencer.predict(frame)
        taken.append(time.perf_counter() - started)
    print(json.dumps(taken), flush=True)
"""
"""Runs in anomalib's environment: prints the precision, then a list of seconds for each number it reads."""

_CALLS = 5
"""Of a block, after one that is not counted: the other side's threads still wait, and its weights fill the
caches."""


@dataclass(frozen=True)
class PeerFigures:
    """One of our files beside anomalib in one precision."""

    model: str
    """Our file."""
    engine: str
    """That ran it."""
    peer_precision: str
    """In which anomalib's model computed."""
    ours_ms: float
    """Median of our calls, frame to `Detection`, in ms."""
    peer_ms: float
    """Median of theirs, frame to their result."""
    ratios: tuple[float, ...]
    """Ours over theirs, of the medians of each turn."""

    def to_text(self) -> str:
        """Write it for people, in one line."""
        return (
            f"{self.model} on {self.engine}: {self.ours_ms:.1f} ms; anomalib in {self.peer_precision}: "
            f"{self.peer_ms:.1f} ms; x{statistics.median(self.ratios):.2f} ({min(self.ratios):.2f} to "
            f"{max(self.ratios):.2f} over {len(self.ratios)} turns)"
        )


def make_environment(folder: Path) -> Path:
    """Return the Python of anomalib's environment, which is made and filled where it is not there.

    Raises:
        BackendError: It cannot be installed.
    """
    python = folder / "bin" / "python"
    if python.exists():
        there = subprocess.run([python, "-c", "import anomalib"], capture_output=True, check=False)
        if there.returncode == 0:
            return python
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", REQUIREMENT],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BackendError(
                f"{REQUIREMENT} cannot be installed into {folder}: {done.stderr.strip()[-500:]} "
                "Name another folder with --environment, or look at the network."
            )
    return python


class _Peer:
    """anomalib in its process, asked for so many calls at a time."""

    def __init__(self, python: Path, folder: Path, encoder: str, precision: str) -> None:
        # A file: nobody reads while it computes, and a full pipe would hold it up.
        self._said = folder / "stderr.txt"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [python, "-c", PEER, str(folder), encoder, precision],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=folder,
            )
        self.precision: str = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Some library may print lines of its own.
            try:
                return json.loads(line)
            except ValueError:
                continue
        self.close()
        said = self._said.read_text(encoding="utf-8", errors="replace").strip()
        raise BackendError(f"anomalib failed: {said[-800:]}")

    def calls(self, count: int) -> list[float]:
        """Return the seconds of so many calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        seconds: list[float] = self._answer()
        return seconds

    def close(self) -> None:
        """End it; harmless when called twice."""
        with self._process:
            self._process.kill()


def _ours(detector: Detector, frames: FrameSet) -> Callable[[int], list[float]]:
    source = frames.cycle()

    def calls(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            frame = next(source)
            started = time.perf_counter()
            detector(frame)
            taken.append(time.perf_counter() - started)
        return taken

    return calls


def measure(
    models: tuple[Path, ...], python: Path, *, frame_hw: tuple[int, int] = (720, 1280), turns: int = 12
) -> list[PeerFigures]:
    """Measure every model beside anomalib as it comes, and beside anomalib in fp32.

    Args:
        models: ONNX files of ours; the first one's encoder is anomalib's.
        python: Of anomalib's environment.
        frame_hw: Height and width of the frames, in pixels.
        turns: Blocks of each side.

    Raises:
        BackendError: anomalib fails.
        ModelError: A model cannot be used.
    """
    frames = draw_frames(frame_hw)
    encoder = Manifest.read(models[0]).encoder.partition(".")[0].removesuffix("_procedural")
    found = []
    for precision in ("default", "f32"):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            np.save(folder / "frames.npy", np.stack(frames.images))
            peer = _Peer(python, folder, encoder, precision)
            stack.callback(peer.close)
            for model in models:
                with Detector(model, threshold=0.0) as detector:
                    sides = (_ours(detector, frames), peer.calls)
                    medians: list[list[float]] = [[], []]
                    for turn in range(turns):
                        # Each goes first as often as the other.
                        for side in (0, 1) if turn % 2 == 0 else (1, 0):
                            sides[side](1)
                            medians[side].append(1e3 * statistics.median(sides[side](_CALLS)))
                    found.append(
                        PeerFigures(
                            model=model.name,
                            engine=detector.backend,
                            peer_precision=f"{peer.precision}, its default"
                            if precision == "default"
                            else peer.precision,
                            ours_ms=statistics.median(medians[0]),
                            peer_ms=statistics.median(medians[1]),
                            ratios=tuple(a / b for a, b in zip(*medians, strict=True)),
                        )
                    )
    return found


@click.command()
@click.argument("models", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--environment",
    type=click.Path(path_type=Path),
    default=Path("anomalib-env"),
    show_default=True,
    help="Folder for anomalib, over a gigabyte; it is kept.",
)
@click.option("--turns", type=int, default=12, show_default=True, help="Blocks of each side.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(models: tuple[Path, ...], environment: Path, turns: int, as_json: bool) -> None:
    """Compare MODELS, ONNX files of ours of one encoder, with anomalib's OpenVINO inferencer."""
    try:
        figures = measure(models, make_environment(environment.absolute()), turns=turns)
    except CadaEdgeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if as_json:
        found = [dataclasses.asdict(each) for each in figures]
        click.echo(json.dumps({"figures": found, "machine": describe_machine()}, indent=2))
    else:
        for each in figures:
            click.echo(each.to_text())


if __name__ == "__main__":
    main()
