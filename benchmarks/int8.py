"""What INT8 gains and costs: speed, parity and accuracy of a quantised file beside those of its fp32 source.

::

    cada-edge demo --size 256 --iterations 200 --out demo256
    python -m cada_edge.benchmarks.int8 demo256/model.onnx demo256/line

The source is quantised anew, with good parts of the data set's training images. Both files then run in turns
on each CPU engine, one frame at a time, and both are evaluated on the test images, in one process. Nothing is
trimmed; the spread that is printed is the quartiles of the pairs' ratios.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import CadaEdgeError, CheckFailedError
from cada_edge.export.speed_ratio import SpeedRatio, compare_speed
from cada_edge.export.to_int8 import Int8Config, export_int8
from cada_edge.manifest import Manifest, Parity
from cada_edge.quantization import Quantization
from cada_edge.runtime.datasets import DatasetIndex, index_dataset
from cada_edge.runtime.evaluate_model import evaluate_model
from cada_edge.runtime.evaluation import Evaluation
from cada_edge.runtime.parity import read_reference

__all__ = ["Int8Figures", "main", "measure", "require_ratio"]

_METRICS = ("i_auroc", "i_ap", "p_auroc", "p_ap")


@dataclass(frozen=True)
class Int8Figures:
    """Of one model."""

    model: str
    """Base, encoder and side of the input."""
    speed: tuple[SpeedRatio, ...]
    """fp32 against INT8, for each engine."""
    parity: Parity
    """Of the INT8 file."""
    quantization: Quantization
    """What computes in INT8."""
    size_share: float
    """Bytes of the INT8 file over those of the fp32 one."""
    fp32: Evaluation
    """Accuracy before."""
    int8: Evaluation
    """Accuracy after."""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-safe."""
        return {
            "model": self.model,
            "speed": [dataclasses.asdict(each) for each in self.speed],
            "parity": dataclasses.asdict(self.parity),
            "quantization": dataclasses.asdict(self.quantization),
            "size_share": self.size_share,
            "fp32": self.fp32.to_dict(),
            "int8": self.int8.to_dict(),
        }

    def to_text(self) -> str:
        """Write it for people."""
        record, parity = self.quantization, self.parity
        lines = [
            f"{self.model}: {record.int8_layers} convolutions in INT8, {record.int8_share:.1%} of the "
            f"multiplications; in fp32 stay {', '.join(record.fp32_layers)}",
            *(f"speed     {each.to_text()}" for each in self.speed),
            f"file      {self.size_share:.2f} of the fp32 file's bytes",
            f"parity    largest score difference {parity.max_score_difference:.4f}, limit "
            f"{parity.score_limit:.4f}, on {parity.images} frames of {parity.backend}",
        ]
        for name in _METRICS:
            before, after = (_mixed(each, name) for each in (self.fp32, self.int8))
            if before is not None and after is not None:
                lines.append(
                    f"{name:10}mixed, {before:.2f} % in fp32, {after:.2f} % in INT8 "
                    f"({after - before:+.2f} points)"
                )
        return "\n".join(lines)


def _mixed(evaluation: Evaluation, metric: str) -> float | None:
    figures: dict[str, float | None] = evaluation.to_dict()["mixed"]
    return figures[metric]


def measure(
    model: Path,
    data: DatasetIndex,
    out: Path,
    *,
    calibration: Path | None = None,
    pairs: int = 60,
    threads: int | None = None,
) -> Int8Figures:
    """Quantise a model, and measure both files.

    Args:
        model: An ONNX file of ours in fp32.
        data: With test images.
        out: The INT8 file to write.
        calibration: Good parts; None: the data set's training images.
        pairs: Calls of each file on each engine.
        threads: CPU threads; None for the engines' own choice.

    Raises:
        CadaEdgeError: As `export_int8`, and where there are no test images.
    """
    config = Int8Config(calibration or data.root, compare_speed=False)
    exported = export_int8(model, out, config)
    assert exported.quantization is not None
    manifest = Manifest.read(model)
    frames = read_reference(exported.reference).frames
    speed = compare_speed(model, out, frames, pairs=pairs, threads=threads)
    return Int8Figures(
        model=f"{manifest.base} with {manifest.encoder} at {manifest.input_hw[0]}",
        speed=speed,
        parity=exported.parity,
        quantization=exported.quantization,
        size_share=out.stat().st_size / model.stat().st_size,
        fp32=evaluate_model(model, data, threads=threads),
        int8=evaluate_model(out, data, threads=threads),
    )


def require_ratio(figures: Int8Figures, least: float) -> None:
    """Refuse a ratio below what is wanted, on OpenVINO.

    Raises:
        CheckFailedError: It is lower, or OpenVINO is not installed.
    """
    found = [each.ratio for each in figures.speed if each.backend.startswith("openvino")]
    if not found or found[0] < least:
        came = f"{found[0]:.2f}" if found else "no ratio, since OpenVINO is not installed,"
        raise CheckFailedError(
            f"{came} times the speed of fp32 came on OpenVINO; wanted {least:g}. It takes a CPU with "
            "AVX-512 VNNI, AVX-VNNI or AMX, and little other load: load_average stands in --json."
        )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    show_default="DATA's training images",
    help="Good parts for the ranges.",
)
@click.option("--pairs", type=int, default=60, show_default=True, help="Calls of each file on each engine.")
@click.option("--threads", type=int, default=None, show_default="the engine's choice", help="CPU threads.")
@click.option("--least", type=float, default=None, help="Exit with 1 below this ratio on OpenVINO.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, show_default="thrown away", help="The INT8 file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    model: Path,
    data: Path,
    calibration: Path | None,
    pairs: int,
    threads: int | None,
    least: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what INT8 gains and costs on MODEL, an fp32 ONNX file, with the data set DATA."""
    try:
        with ExitStack() as stack:
            place = out or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "int8.onnx"
            index = index_dataset(data)
            figures = measure(model, index, place, calibration=calibration, pairs=pairs, threads=threads)
        if as_json:
            record = {**figures.to_dict(), "threads": threads, "machine": describe_machine()}
            click.echo(json.dumps(record, indent=2))
        else:
            click.echo(figures.to_text())
        if least is not None:
            require_ratio(figures, least)
    except CadaEdgeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
