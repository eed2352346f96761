from __future__ import annotations

import dataclasses
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cada_edge.benchmarks.demo_result import VARIANTS, DemoResult, Example, VariantResult
from cada_edge.manifest import Parity
from cada_edge.runtime.backend import InputSpec, Outputs
from cada_edge.runtime.evaluation import METRICS, Evaluation, Figures, KindFigures

KINDS = ("screw <M3>", "Dichtung äöü", "螺丝 & $nut$")
PER_CLASS = 40
SIZE = 32


def _figures(i_auroc: float) -> Figures:
    return {"i_auroc": i_auroc, "i_ap": 91.23, "p_auroc": 88.81, "p_ap": 33.37, "aupro": 77.77}


def _evaluation(mixed: Figures, averaged: Figures, verdicts: tuple[int, int]) -> Evaluation:
    false_alarms, detected = verdicts
    kind: dict[str, Any] = {
        **averaged,
        "images": 2 * PER_CLASS,
        "normal_images": PER_CLASS,
        "anomalous_images": PER_CLASS,
        "false_alarms": false_alarms,
        "detected": detected,
        "false_positive_rate": 100 * false_alarms / PER_CLASS,
        "true_positive_rate": 100 * detected / PER_CLASS,
    }
    complete: dict[str, Any] = {
        "mixed": mixed,
        "averaged": averaged,
        "averaged_over": dict.fromkeys(METRICS, len(KINDS)),
        "per_kind": {name: KindFigures(**kind) for name in KINDS},  # type: ignore[typeddict-item]
        "images": 2 * PER_CLASS * len(KINDS),
        "threshold": 0.5,
        "false_positive_rate": kind["false_positive_rate"],
        "true_positive_rate": kind["true_positive_rate"],
        "protocol": {"images": "some-resize", "masks": "pil-bilinear>0", "threshold": 0.5},
        "reasons": {},
    }
    return Evaluation(**complete)


def _example(kind: str, defect: str) -> Example:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if defect != "good":
        mask[8:16, 8:16] = 1
    heat = np.linspace(0, 2, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    return Example(
        frame=np.full((SIZE, SIZE, 3), (10, 120, 200), np.uint8),
        mask=mask,
        category=kind,
        defect=defect,
        maps={"none": heat * 0.1, "cada": heat, "class-aware": heat},
        scores={"none": 0.4321, "cada": 1.2345, "class-aware": 1.0},
    )


@pytest.fixture
def result(tmp_path: Path) -> DemoResult:
    """Three kinds of 40 good and 40 defective parts; alignment gains 9.5 points."""
    rng = np.random.default_rng(0)
    categories = tuple(kind for kind in KINDS for _ in range(2 * PER_CLASS))
    anomalous = np.tile(np.arange(2 * PER_CLASS) >= PER_CLASS, len(KINDS))
    noise = rng.normal(1.0, 0.1, len(categories)).astype(np.float32)
    levels = np.repeat(np.array([3.0, 1.0, 2.0], np.float32), 2 * PER_CLASS)
    aligned = np.asarray(noise + 0.4 * anomalous, np.float32)
    measured = {
        "none": (
            _evaluation(_figures(81.64), _figures(92.5), (4, 10)),
            np.asarray(aligned * levels, np.float32),
        ),
        "cada": (_evaluation(_figures(91.14), _figures(93.5), (1, 31)), aligned),
        "class-aware": (_evaluation(_figures(92.2), _figures(93.6), (2, 32)), aligned),
    }
    return DemoResult(
        variants={name: VariantResult(*measured[name], threshold=1.2) for name in VARIANTS},
        categories=categories,
        anomalous=anomalous,
        examples=tuple(_example(kind, defect) for kind in KINDS for defect in ("scratch <deep>", "good")),
        latency_ms=rng.gamma(20.0, 0.5, 200),
        backend="engine 1.2 CPU",
        parity=Parity(12, 3.2e-6, 1.0e-6, 1.1e-4, 1e-4, "engine 1.2 CPU", None, "fewer than 100 images"),
        threshold=1.2,
        settings={"size": 128, "seed": 7, "encoder": "resnet18", "threads": None},
        seconds={"draw": 3.21, "train": 125.0, "total": 128.21},
        machine={"cpu": "Fast CPU", "cores": 2, "packages": {"numpy": "2.0"}, "governor": None},
        line=tmp_path / "demo" / "line",
        checkpoint=tmp_path / "demo" / "run" / "checkpoint.pt",
        model=tmp_path / "demo" / "model.onnx",
        report=tmp_path / "demo" / "report.html",
        notes=("40 images promise <2.5 %",),
    )


@pytest.fixture
def vary() -> Callable[..., DemoResult]:
    """Change one field of some variants: ``vary(result, "scores", cada=scores)``."""

    def varied(result: DemoResult, field: str, **values: Any) -> DemoResult:
        variants = {
            name: dataclasses.replace(variant, **{field: values.get(name, getattr(variant, field))})
            for name, variant in result.variants.items()
        }
        return dataclasses.replace(result, variants=variants)

    return varied


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """The runtime tests' tiny model, which takes next to no time."""
    conftest = Path(__file__).parents[1] / "runtime" / "conftest.py"
    path: Path = runpy.run_path(str(conftest))["_write_tiny_model"](tmp_path / "model" / "tiny.onnx")
    return path


class SleepingBackend:
    """A double of an engine: it sleeps in the place of computing, for known times."""

    has_owner = False
    description = "sleeping 1.0 CPU"

    def __init__(self, *, sleep_s: float, pause_at: int = -1, pause_s: float = 0.0) -> None:
        self.spec = InputSpec("frames", (16, 16))
        self.stages_ms: dict[str, float] = {}
        self.calls = 0
        self._sleep_s, self._pause_at, self._pause_s = sleep_s, pause_at, pause_s

    def open(self) -> None:
        pass

    def infer(self, frames: NDArray[np.uint8]) -> Outputs:
        time.sleep(self._sleep_s + (self._pause_s if self.calls == self._pause_at else 0))
        self.calls += 1
        count = len(frames)
        return Outputs(
            np.full(count, 0.5, np.float32),
            np.zeros((count, 16, 16), np.float32),
            np.tile(np.array([0.0, 1.0], np.float32), (count, 1)),
        )

    def close(self) -> None:
        pass


@pytest.fixture
def sleeping(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SleepingBackend]:
    """Put a `SleepingBackend` in the place of every engine: ``sleeping(sleep_s=0.01)``."""

    def put(**times: Any) -> SleepingBackend:
        backend = SleepingBackend(**times)
        monkeypatch.setattr("cada_edge.runtime.detector.choose_backend", lambda *args, **options: backend)
        return backend

    return put
