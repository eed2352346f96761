"""Checks with PyTorch on a GPU: real short trainings, the fp16 graph's numerics, and its latency."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cada_edge.benchmarks.gpu_outcomes import NotPossible
from cada_edge.runtime.backend import Outputs

__all__ = ["MODES", "PAPER", "checkpoint_in", "latency", "numerics", "require_cuda", "timings", "train"]

PAPER: dict[str, dict[str, Any]] = {
    "revdist": {"encoder": "wide_resnet50_2.tv_in1k", "size": 256},
    "recontrast": {"encoder": "wide_resnet50_2.tv_in1k", "size": 256},
    "uniad": {"encoder": "tf_efficientnet_b4.aa_in1k", "size": 224},
}
"""Encoder and size of each base method in the paper; the weights are random: a box may have no network."""

MODES = ("eager", "cuda-graph", "compile")
"""How PyTorch runs the graph."""

_BATCHES = (1, 32)


def require_cuda() -> str:
    """Return the name of PyTorch's CUDA device.

    Raises:
        NotPossible: PyTorch is not installed, or sees none.
    """
    try:
        import torch
    except ImportError as error:
        raise NotPossible(f"PyTorch is not installed ({error}).") from error
    if not torch.cuda.is_available():
        raise NotPossible("PyTorch sees no CUDA device.")
    return torch.cuda.get_device_name()


def checkpoint_in(work: Path, base: str) -> Path:
    """Return the checkpoint that `train` left in the working folder.

    Raises:
        NotPossible: It left none.
    """
    path = work / base / "checkpoint.pt"
    if not path.is_file():
        raise NotPossible(
            f"the check train.{base} left no checkpoint, which takes PyTorch"
            "; pass an exported file with --model."
        )
    return path


def train(
    base: str, work: Path, *, device: str, iterations: int, batch_size: int, **values: Any
) -> Mapping[str, Any]:
    """Train a base method and its aligner on a small drawn line.

    Args:
        base: Of the base methods.
        work: Folder for the line and the run.
        device: Of PyTorch.
        iterations: Of the base; the aligner takes ten times as many.
        batch_size: Images in a step.
        **values: Of the configuration, in the place of the paper's.

    Returns:
        images_per_s of the base's last steps, peak_gib (allocated by PyTorch; None on a CPU), last loss.
    """
    import torch

    from cada_edge.runtime.datasets import index_dataset
    from cada_edge.trainer.base_method import configure
    from cada_edge.trainer.fit import fit
    from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line

    config = configure(
        {
            "base": base,
            "encoder_weights": "random",
            "iterations": iterations,
            "batch_size": batch_size,
            "log_every": max(1, iterations // 4),
            "aligner": {"iterations": 10 * iterations, "batch_size": 16, "beta": 0.1},
            "device": device,
            **PAPER[base],
            **values,
        }
    )
    line = work / f"line-{config.size}"
    if not line.is_dir():
        drawn = SyntheticConfig(
            size=config.size,
            train_per_kind=16,
            test_normal_per_kind=2,
            test_anomalous_per_kind=2,
            kinds=KINDS[:4],
        )
        write_line(line, drawn)
    fit(index_dataset(line), work / base, config, overwrite=True)
    rows = [json.loads(text) for text in (work / base / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [row for row in rows if row.get("row") == "step" and row.get("stage") == "base"][-1]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.device(device).type == "cuda" else None
    return {
        "images_per_s": float(last["images_per_s"]),
        "peak_gib": peak,
        "batch_size": batch_size,
        "iterations": iterations,
        "loss": float(last["loss"]),
    }


def numerics(checkpoint: Path, *, device: str) -> Mapping[str, Any]:
    """Replay a checkpoint's reference frames through its fp32 and fp16 graphs on a device.

    Args:
        checkpoint: Of any base method.
        device: Of PyTorch.

    Returns:
        For each precision the largest score difference from fp32 on the CPU, and its limit.

    Raises:
        CheckFailedError: Over a parity limit, or a value that is not finite.
    """
    import torch

    from cada_edge.export.graph import FusedGraph
    from cada_edge.export.reference import reference_of
    from cada_edge.runtime.parity import replay
    from cada_edge.trainer.checkpoint import load_checkpoint
    from cada_edge.trainer.model import exact_fp32

    loaded = load_checkpoint(checkpoint)
    reference = reference_of(loaded)
    figures: dict[str, Any] = {}
    for precision in ("fp32", "fp16"):
        graph = FusedGraph(loaded.model, precision=precision).to(device)

        def infer(frames: np.ndarray[Any, Any], graph: Any = graph) -> Outputs:
            with torch.inference_mode(), exact_fp32():
                outputs = graph(torch.from_numpy(frames).to(device))
            return Outputs(*(output.cpu().numpy() for output in outputs))

        parity = replay(infer, reference, precision=precision, backend=f"torch {torch.__version__} {device}")
        figures[f"{precision}_difference"] = parity.max_score_difference
        figures[f"{precision}_limit"] = parity.score_limit
    return figures


def latency(checkpoint: Path, mode: str, *, device: str, seconds: float) -> Mapping[str, Any]:
    """Time the fp16 graph, frames on the device, one call in flight, for batches of 1 and 32.

    Args:
        checkpoint: Of any base method.
        mode: One of `MODES`.
        device: Of PyTorch; 'cuda-graph' needs a GPU.
        seconds: Of timed calls for each batch.

    Returns:
        For each batch n, mean, p50, p90, p99 and max in ms, and images_per_s. No sample is left out.
    """
    import torch

    from cada_edge.export.graph import FusedGraph
    from cada_edge.trainer.checkpoint import load_checkpoint
    from cada_edge.trainer.model import exact_fp32

    loaded = load_checkpoint(checkpoint)
    graph = FusedGraph(loaded.model, precision="fp16").to(device)
    size = loaded.config.size
    cuda: Any = torch.cuda
    wait: Callable[[], Any] = cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    figures: dict[str, Any] = {}
    with torch.inference_mode(), exact_fp32():
        for batch in _BATCHES:
            pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
            frames = torch.from_numpy(pixels).to(device)
            run = _runner(graph, frames, mode)
            for _ in range(3):
                run()
            wait()
            figures[f"batch_{batch}"] = timings(run, wait, batch=batch, seconds=seconds)
    return figures


def _runner(graph: Any, frames: Any, mode: str) -> Callable[[], Any]:
    import torch

    if mode == "eager":
        return functools.partial(graph, frames)
    if mode == "compile":
        return functools.partial(torch.compile(graph), frames)
    cuda: Any = torch.cuda  # its classes have no types
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(3):  # libraries choose their kernels before the capture
            graph(frames)
    cuda.current_stream().wait_stream(side)
    captured = cuda.CUDAGraph()
    with cuda.graph(captured):
        graph(frames)
    replay: Callable[[], Any] = captured.replay
    return replay


def timings(
    run: Callable[[], Any], wait: Callable[[], Any], *, batch: int, seconds: float
) -> dict[str, float | int]:
    """Time calls one after the other, each to its end.

    Args:
        run: One call.
        wait: Returns when the device has done it.
        batch: Images of a call.
        seconds: How long, at least ten calls.
    """
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 10 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        wait()
        taken.append((time.perf_counter() - started) * 1e3)
    p50, p90, p99 = (float(value) for value in np.percentile(taken, [50, 90, 99]))
    mean = float(np.mean(taken))
    return {
        "n": len(taken),
        "mean_ms": mean,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "max_ms": max(taken),
        "images_per_s": batch / mean * 1e3,
    }
