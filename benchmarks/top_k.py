"""What the score's top-k mean costs as one TopK and as the bisection that takes its place above k = 3840.

Each is exported alone, of maps of one side, and run on a CPU engine; the two take turns. TensorRT builds the
TopK up to k = 3840 only, so beyond it the comparison is with an operator that its engines cannot have. Where
TensorRT for RTX is installed, which needs no GPU to build, an engine of each is built and its time is shown.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cada_edge.benchmarks.machine import describe_machine
from cada_edge.errors import BackendError
from cada_edge.export.build_thread import BuildProgress
from cada_edge.export.engine_builder import BuildRequest, build_plan
from cada_edge.runtime.openvino_core import openvino_core
from cada_edge.trainer.scoring import TOP_K_LIMIT, top_count, top_mean_by_bisection

__all__ = ["KINDS", "TopMeanFigures", "build_seconds", "engine", "export_top_mean", "main", "measure"]

_FRACTION = 0.01


def _by_top_k(maps: Tensor, count: int) -> Tensor:
    return maps.flatten(1).topk(count, dim=1, sorted=False).values.mean(1)


KINDS: dict[str, Callable[[Tensor, int], Tensor]] = {"top-k": _by_top_k, "bisection": top_mean_by_bisection}
"""The two ways."""


@dataclass(frozen=True)
class TopMeanFigures:
    """One way at one size."""

    kind: str
    """A key of `KINDS`."""
    side: int
    """Of the map, in pixels."""
    count: int
    """Pixels averaged: 1 %."""
    export_s: float
    """Time to write the ONNX file, in seconds, once."""
    nodes: int
    """Operators of the file."""
    build_s: float | None
    """Time in which TensorRT for RTX builds an engine of it, in seconds, once; None where it is not installed
    or refuses."""
    p50_ms: dict[str, float]
    """Engine -> median time of a call on one map, in milliseconds."""
    largest_error: float
    """Largest |score - float64| / max(1, |score|) of the engines, on a random map with an outlier of 1e6."""
    in_tensorrt: bool
    """Whether TensorRT builds it."""


class _TopMean(nn.Module):
    def __init__(self, kind: str, count: int) -> None:
        super().__init__()
        self.compute, self.count = KINDS[kind], count

    def forward(self, maps: Tensor) -> Tensor:
        return self.compute(maps, self.count)


def export_top_mean(path: Path, kind: str, side: int, count: int) -> None:
    """Write a graph of the top-k mean alone.

    Args:
        path: File to write; its input is 'maps', float32 (N, side, side), its output 'score', (N,).
        kind: A key of `KINDS`.
        side: Of the maps, in pixels.
        count: Pixels to average.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        program = torch.onnx.export(
            _TopMean(kind, count),
            (torch.zeros(2, side, side),),
            input_names=["maps"],
            output_names=["score"],
            dynamic_shapes={"maps": {0: torch.export.Dim("batch", min=1, max=64)}},
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)


def build_seconds(path: Path, side: int) -> float | None:
    """Build an engine of a graph for compute capability 8.6 with TensorRT for RTX; it is not kept.

    Args:
        path: The file of `export_top_mean`; what is built is written beside it.
        side: Of its maps, in pixels.

    Returns:
        The time of the build, parsing in, in seconds; None where the library refuses, or is not installed.
    """
    if find_spec("tensorrt_rtx") is None:
        return None
    whole = path.with_suffix(".frames.onnx")
    onnx.save(_of_frames(onnx.load(path), side), whole)
    request = BuildRequest("rtx", "fp32", (side, side), (1, 1, 1), ("8.6",))
    started = time.perf_counter()
    try:
        build_plan(whole, request, BuildProgress())
    except BackendError:
        return None
    return time.perf_counter() - started


def _of_frames(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """Let a graph of `export_top_mean` take frames and give three outputs: the builder takes no other.

    As in our models a matrix product makes the maps. Where pixels alone led to them, TensorRT for RTX 1.7
    took many times as long with each further step of the bisection, and never came to an end.
    """
    helper, kinds, graph = onnx.helper, onnx.TensorProto, model.graph
    nodes = [
        helper.make_node("Cast", ["frames"], ["frames_float"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["frames_float", "axis_3"], ["grey"], keepdims=0),
        helper.make_node("MatMul", ["grey", "weights"], ["maps"]),
        *graph.node,
        helper.make_node("Identity", ["maps"], ["anomaly_map"]),
        helper.make_node("Unsqueeze", ["score", "axis_1"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["stats"], axis=1),
    ]
    axes = [helper.make_tensor(f"axis_{axis}", kinds.INT64, [1], [axis]) for axis in (1, 3)]
    weights = np.random.default_rng(0).standard_normal((side, side), np.float32)
    axes.append(onnx.numpy_helper.from_array(weights, "weights"))
    shapes: dict[str, list[int | str]] = {"score": [], "anomaly_map": [side, side], "stats": [2]}
    made = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info("frames", kinds.UINT8, ["batch", side, side, 3])],
        [
            helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", *shape])
            for name, shape in shapes.items()
        ],
        [*graph.initializer, *axes],
    )
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def engine(
    path: Path, name: str, *, threads: int = 1
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Open a graph of `export_top_mean`.

    Args:
        path: The file.
        name: 'onnxruntime' or 'openvino', which is told to compute in fp32.
        threads: CPU threads.

    Returns:
        A function from maps (N, side, side) to scores (N,).
    """
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(maps: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray(session.run(["score"], {"maps": maps})[0], np.float32)

        return run
    settings: Any = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino_core().compile_model(path, "CPU", settings)
    return lambda maps: np.array(compiled(maps)[0], np.float32)


def measure(side: int, *, repeats: int = 30) -> list[TopMeanFigures]:
    """Export and time both ways at one size.

    Args:
        side: Of the map, in pixels.
        repeats: Timed calls of each, after three that are not.
    """
    maps = np.random.default_rng(side).random((1, side, side), np.float32)
    extreme = maps.copy()
    extreme[0, 3, 5] = 1e6
    count = top_count(side, _FRACTION)
    wanted = np.sort(extreme.astype(np.float64), axis=None)[-count:].mean()
    runs: dict[tuple[str, str], Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {}
    seconds, nodes, errors = {}, {}, dict.fromkeys(KINDS, 0.0)
    build_s: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / f"{kind}.onnx"
            started = time.perf_counter()
            export_top_mean(path, kind, side, count)
            seconds[kind] = time.perf_counter() - started
            nodes[kind] = len(onnx.load(path).graph.node)
            build_s[kind] = build_seconds(path, side)
            for name in ("onnxruntime", "openvino"):
                runs[kind, name] = run = engine(path, name)
                error = abs(float(run(extreme)[0]) - wanted) / max(1.0, abs(wanted))
                errors[kind] = max(errors[kind], error)
        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for turn in range(3 + repeats):
            for key, run in runs.items():
                started = time.perf_counter()
                run(maps)
                if turn >= 3:
                    times[key].append((time.perf_counter() - started) * 1e3)
    return [
        TopMeanFigures(
            kind=kind,
            side=side,
            count=count,
            export_s=seconds[kind],
            nodes=nodes[kind],
            build_s=build_s[kind],
            p50_ms={name: statistics.median(values) for (of, name), values in times.items() if of == kind},
            largest_error=errors[kind],
            in_tensorrt=kind == "bisection" or count <= TOP_K_LIMIT,
        )
        for kind in KINDS
    ]


def _text(figures: list[TopMeanFigures]) -> str:
    header = f"{'side':>5} {'k':>6} {'kind':10} {'export':>8} {'nodes':>6} {'build':>8} {'error':>8}"
    lines = [f"{header}  time of a call"]
    for each in figures:
        calls = ", ".join(f"{name} {value:.2f} ms" for name, value in each.p50_ms.items())
        built = "-" if each.build_s is None else f"{each.build_s:.2f} s"
        lines.append(
            f"{each.side:5} {each.count:6} {each.kind:10} {each.export_s:6.1f} s {each.nodes:6} {built:>8} "
            f"{each.largest_error:8.1e}  {calls}{'' if each.in_tensorrt else ' (not in TensorRT)'}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--side", "sides", type=int, multiple=True, default=(256, 640, 1024), show_default=True)
@click.option("--repeats", type=int, default=30, show_default=True, help="Timed calls of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(sides: tuple[int, ...], repeats: int, as_json: bool) -> None:
    """Compare the top-k mean by TopK and by bisection: export, build, operators, error and time of a call."""
    figures = [each for side in sides for each in measure(side, repeats=repeats)]
    if as_json:
        record = {
            "figures": [dataclasses.asdict(each) for each in figures],
            "torch": torch.__version__,
            "machine": describe_machine(),
        }
        click.echo(json.dumps(record, indent=2))
    else:
        click.echo(_text(figures))


if __name__ == "__main__":
    main()
