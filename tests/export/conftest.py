"""A small trained checkpoint for the exporter's tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cada_edge.export.export_result import ExportResult
from cada_edge.export.to_int8 import Int8Config, export_int8
from cada_edge.export.to_onnx import ExportConfig, export_onnx
from cada_edge.runtime import parity
from cada_edge.runtime.datasets import index_dataset
from cada_edge.trainer.base_method import configure
from cada_edge.trainer.config import AlignerConfig, TrainConfig
from cada_edge.trainer.fit import fit
from cada_edge.trainer.synthetic import KINDS, SyntheticConfig, write_line


@pytest.fixture(scope="session")
def small_line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds at 64 pixels in the MVTec layout."""
    config = SyntheticConfig(
        size=64, train_per_kind=12, test_normal_per_kind=2, test_anomalous_per_kind=2, kinds=KINDS[:2]
    )
    return write_line(tmp_path_factory.mktemp("line") / "small", config)


@pytest.fixture(scope="session")
def small_checkpoint(small_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with random encoder, trained for a few steps."""
    config = TrainConfig(
        encoder="resnet18",
        encoder_weights="random",
        size=64,
        iterations=8,
        batch_size=4,
        aligner=AlignerConfig(iterations=50, batch_size=8),
        device="cpu",
    )
    return fit(index_dataset(small_line), tmp_path_factory.mktemp("runs") / "small", config).checkpoint


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RevDist with a small encoder at 640 pixels, where the top 1 % is beyond TopK's limit; one step."""
    line = SyntheticConfig(
        size=64, train_per_kind=4, test_normal_per_kind=1, test_anomalous_per_kind=1, kinds=KINDS[:2]
    )
    index = index_dataset(write_line(tmp_path_factory.mktemp("line") / "large", line))
    values = {"encoder": "mobilenetv3_small_100", "encoder_weights": "random", "size": 640, "device": "cpu"}
    values |= {"iterations": 1, "batch_size": 2, "aligner": {"iterations": 30, "batch_size": 4}}
    return fit(index, tmp_path_factory.mktemp("runs") / "large", configure(values)).checkpoint


SMALL_ENCODERS = {"revdist": "resnet18", "recontrast": "resnet18", "uniad": "resnet18"}
"""Small stand-ins for the paper's encoders. Not a MobileNet: after so few steps ReContrast's scores are so
near to each other there that rounding to half precision is over the parity limit on some processors."""


@pytest.fixture(scope="session")
def checkpoint_of(small_line: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a checkpoint of a base method, trained for a few steps: ``checkpoint_of("revdist")``."""
    trained: dict[str, Path] = {}

    def of(base: str) -> Path:
        if base not in trained:
            values = {"base": base, "encoder": SMALL_ENCODERS[base], "encoder_weights": "random", "size": 64}
            values |= {"iterations": 4, "batch_size": 4, "device": "cpu"}
            values |= {"aligner": {"iterations": 40, "batch_size": 8}}
            index = index_dataset(small_line)
            run = fit(index, tmp_path_factory.mktemp("runs") / base, configure(values))
            trained[base] = run.checkpoint
        return trained[base]

    return of


@pytest.fixture(scope="session")
def graph_of(
    checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Give the exported ONNX file of a base method: ``graph_of("revdist", "fp16")``; not to be changed."""
    exported: dict[tuple[str, str], Path] = {}

    def of(base: str, precision: str) -> Path:
        if (base, precision) not in exported:
            out = tmp_path_factory.mktemp("graphs") / f"{base}_{precision}.onnx"
            config = ExportConfig(precision=precision, backend="onnxruntime")
            exported[base, precision] = export_onnx(checkpoint_of(base), out, config).model
        return exported[base, precision]

    return of


@contextmanager
def wide_int8_limits() -> Iterator[None]:
    """Widen the parity limits of int8 fifty times.

    A few steps of training leave a model whose scores hardly differ from image to image: 2 % of their spread
    is far below what 8 bits keep. Where an INT8 file goes is tested with it all the same; that the limits are
    held is tested in test_quantize.py and, for the replay, in tests/runtime/test_parity.py.
    """
    limit = parity.score_limit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            parity, "score_limit", lambda kind, *rest: limit(kind, *rest) * (50 if kind == "int8" else 1)
        )
        patch.setitem(parity._MAP_LIMITS, "int8", 10.0)
        yield


@pytest.fixture
def wide_limits() -> Iterator[None]:
    """Widen the parity limits of int8 for one test."""
    with wide_int8_limits():
        yield


@pytest.fixture(scope="session")
def int8_export(
    graph_of: Callable[..., Path], small_line: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    """The INT8 export of the RevDist file, in a folder of its own; not to be changed."""
    out = tmp_path_factory.mktemp("int8") / "model.onnx"
    with wide_int8_limits():
        return export_int8(graph_of("revdist", "fp32"), out, Int8Config(small_line))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt: a shell starts what runs in its background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
