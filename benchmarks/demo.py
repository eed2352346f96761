"""The demo: draw a mixed line, train on it without labels, export, stream, and report what came out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import VARIANTS, DemoResult, Example, VariantResult
from cada_edge.benchmarks.examples import first_of_each_kind, make_example
from cada_edge.benchmarks.machine import describe_machine
from cada_edge.benchmarks.report import write_report
from cada_edge.errors import CheckFailedError, ConfigError
from cada_edge.export.to_onnx import ExportResult, export_onnx
from cada_edge.files import write_atomic
from cada_edge.runtime.conformal import conformal_threshold
from cada_edge.runtime.datasets import DatasetIndex, index_dataset
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.holdout import split_holdout
from cada_edge.trainer.checkpoint import Checkpoint, load_checkpoint
from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.encoders import build_encoder
from cada_edge.trainer.evaluate_checkpoint import Scored, evaluate_scored, score_samples
from cada_edge.trainer.fit import TrainResult, choose_device, fit
from cada_edge.trainer.synthetic import SyntheticConfig, write_line

__all__ = ["DemoConfig", "draw_line", "run_demo", "train_config"]

Progress = Callable[[str, int, int, float], None]

_EXAMPLES_RULE = "The examples are each kind's first defective and first good test image, not a selection."


@dataclass(frozen=True)
class DemoConfig:
    """How large the demo is; the defaults take about ten minutes on two cores."""

    size: int = 128
    """Side of the images, in pixels."""
    iterations: int = 800
    """Steps of the base method."""
    aligner_iterations: int = AlignerConfig.iterations
    """Steps of the regressor."""
    seed: int = 0
    """Of the drawn line and of the training."""
    encoder: str = "resnet18_procedural"
    """timm name and tag, or the small one that comes with cada-edge."""
    encoder_weights: str | None = None
    """A file for it, or 'random'."""
    train_per_kind: int = 60
    """Good parts drawn of each kind; a tenth is held out for the threshold."""
    test_per_kind: int = 20
    """Good parts, and as many defective ones, drawn of each kind."""
    false_alarm_rate: float = 0.02
    """Wanted at the threshold, 0-1: what the held-out images can promise."""
    threads: int | None = None
    """CPU threads; None for the engines' own choice."""
    device: str = "cpu"
    """Where to train and evaluate, as in `TrainConfig`; the stream runs on the exported file's own engine."""
    amp: str = "auto"
    """bf16 in the base's training, as in `TrainConfig`; 'on' pays on a CPU with AVX-512 BF16 or AMX too."""
    require_gain: bool = True
    """Fail when mixed I-AUROC is not higher with the alignment than without; off for a run of a few steps."""

    def __post_init__(self) -> None:
        if self.size % 32 or self.size < 64:
            raise ConfigError(
                f"size {self.size} came; wanted a multiple of 32 from 64 pixels. Pass --size 128."
            )
        train_config(self)


def run_demo(
    out: str | Path, config: DemoConfig | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the demo.

    Args:
        out: Folder to write: the line, the run, the model, report.html and summary.json.
        config: Its size.
        progress: Called with the stage's name, what is done, how many there are, and the loss.

    Returns:
        The summary that is written to summary.json: metrics in % and times in ms.

    Raises:
        ConfigError: The encoder is unknown.
        OutputError: The folder cannot be written.
        CheckFailedError: The exported model differs from PyTorch, or the alignment gains nothing (the report
            and the summary are written all the same).
    """
    out = Path(out)
    config = config or DemoConfig()
    report = progress or (lambda stage, done, total, loss: None)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # An unknown name or missing weights are found before the line is drawn, not after.
    build_encoder(config.encoder, config.encoder_weights)
    with _timed(seconds, "draw"):
        line = draw_line(out / "line", config, report)
    index = index_dataset(line)
    with _timed(seconds, "train"):
        trained = _train(index, out / "run", config, report)
    with _timed(seconds, "export"):
        exported = export_onnx(trained.checkpoint, out / "model.onnx", data=index)
    with _timed(seconds, "evaluate"):
        checkpoint = load_checkpoint(trained.checkpoint)
        scored = score_samples(checkpoint, index.test, VARIANTS, device=choose_device(config.device))
        variants = _evaluate(checkpoint, index, scored, config)
    with _timed(seconds, "stream"):
        latency, engine = _stream(exported.model, index, config, report)
    seconds["total"] = time.perf_counter() - started
    result = DemoResult(
        variants=variants,
        categories=tuple(sample.category for sample in index.test),
        anomalous=np.array([sample.anomalous for sample in index.test]),
        examples=_examples(index, scored, config.size),
        latency_ms=latency,
        backend=engine,
        parity=exported.parity,
        threshold=_known(exported.threshold),
        settings=dataclasses.asdict(config),
        seconds=seconds,
        machine=describe_machine(),
        line=line,
        checkpoint=trained.checkpoint,
        model=exported.model,
        report=out / "report.html",
        average_range=_average_range(checkpoint),
        notes=(_EXAMPLES_RULE,) if trained.warning is None else (_EXAMPLES_RULE, trained.warning),
    )
    write_report(result)
    summary = _summary(result, exported)
    write_atomic(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    if config.require_gain:
        _require_gain(summary)
    return summary


def _require_gain(summary: dict[str, Any]) -> None:
    aligned, plain = (summary[name]["mixed"]["i_auroc"] for name in ("cada", "none"))
    if not aligned > plain:
        raise CheckFailedError(
            f"Mixed I-AUROC {aligned:.1f} % came with the alignment cada and {plain:.1f} % without; "
            f"wanted more with it. Look at {summary['report']}; train for longer (--iterations), "
            "or pass --no-require-gain for a run that is to show the way only."
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def draw_line(folder: Path, config: DemoConfig, report: Progress) -> Path:
    """Draw the demo's line, or find it drawn already."""
    line = SyntheticConfig(
        size=config.size,
        train_per_kind=config.train_per_kind,
        test_normal_per_kind=config.test_per_kind,
        test_anomalous_per_kind=config.test_per_kind,
        seed=config.seed,
    )
    return write_line(folder, line, progress=lambda done, total: report("draw", done, total, float("nan")))


def train_config(config: DemoConfig) -> TrainConfig:
    """Return how the demo trains."""
    return TrainConfig(
        encoder=config.encoder,
        encoder_weights=config.encoder_weights,
        size=config.size,
        iterations=config.iterations,
        schedule="cosine",
        aligner=AlignerConfig(iterations=config.aligner_iterations),
        false_alarm_rate=config.false_alarm_rate,
        seed=config.seed,
        device=config.device,
        amp=config.amp,
        threads=config.threads,
    )


def _train(index: DatasetIndex, run: Path, config: DemoConfig, report: Progress) -> TrainResult:
    return fit(index, run, train_config(config), overwrite=True, progress=report)


def _evaluate(
    checkpoint: Checkpoint, index: DatasetIndex, scored: dict[str, Scored], config: DemoConfig
) -> dict[str, VariantResult]:
    """Give every alignment its own threshold from the same held-out images, then compare at it."""
    _, held_out = split_holdout(index.train, fraction=checkpoint.config.holdout_fraction, seed=config.seed)
    normal = score_samples(checkpoint, held_out, VARIANTS, device=choose_device(config.device))
    results = {}
    for name in VARIANTS:
        threshold = conformal_threshold(normal[name].scores, config.false_alarm_rate).threshold
        evaluation = evaluate_scored(
            checkpoint, index.test, scored[name], alignment=name, threshold=threshold
        )
        results[name] = VariantResult(evaluation, scored[name].scores, threshold)
    return results


def _stream(
    model: Path, index: DatasetIndex, config: DemoConfig, report: Progress
) -> tuple[NDArray[np.float64], str]:
    """Stream the test images through the exported model as an application would."""
    paths = [sample.image for sample in index.test]
    latency = []
    with Detector(model, threads=config.threads) as detector:
        for detection in detector.stream(paths):
            latency.append(detection.timings_ms["total"])
            report("stream", len(latency), len(paths), float("nan"))
        return np.array(latency), detector.backend


def _average_range(checkpoint: Checkpoint) -> tuple[float, float]:
    """Average the kinds' mean and maximum: the data set's average, as every kind has as many images."""
    mean, maximum = np.mean(list(checkpoint.class_table.values()), axis=0)
    return float(mean), float(maximum)


def _examples(index: DatasetIndex, scored: dict[str, Scored], size: int) -> tuple[Example, ...]:
    return tuple(
        make_example(
            index.test[row],
            size,
            {name: scored[name].maps[row] for name in VARIANTS},
            {name: float(scored[name].scores[row]) for name in VARIANTS},
        )
        for row in first_of_each_kind(index.test)
    )


def _summary(result: DemoResult, exported: ExportResult) -> dict[str, Any]:
    quantiles = np.percentile(result.latency_ms, [50, 99])
    summary: dict[str, Any] = {}
    for name in VARIANTS:
        evaluation = result.variants[name].evaluation
        summary[name.replace("-", "_")] = {"mixed": evaluation.mixed, "averaged": evaluation.averaged}
    summary |= {
        "threshold": result.threshold,
        "parity": dataclasses.asdict(exported.parity),
        "latency_ms": {"p50": float(quantiles[0]), "p99": float(quantiles[1]), "n": len(result.latency_ms)},
        "backend": result.backend,
        "seconds": dict(result.seconds),
        "settings": dict(result.settings),
        "checkpoint": str(result.checkpoint),
        "model": str(result.model),
        "report": str(result.report),
    }
    return summary


def _known(threshold: float | None) -> float:
    assert threshold is not None
    return threshold
