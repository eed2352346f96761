"""What a demo run measured: the record that the report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cada_edge.manifest import Parity
from cada_edge.runtime.evaluation import Evaluation

__all__ = ["VARIANTS", "DemoResult", "Example", "VariantResult"]

VARIANTS = ("none", "cada", "class-aware")
"""Alignments that the demo compares, in the report's order; class-aware, a reference, knows each kind."""


@dataclass(frozen=True)
class VariantResult:
    """One alignment on the test images."""

    evaluation: Evaluation
    """Metrics, mixed and averaged, and rates per kind at `threshold`."""
    scores: NDArray[np.float32]
    """(N,), in the order of `DemoResult.categories`."""
    threshold: float
    """The one threshold of all kinds, from the held-out normal images under this alignment."""


@dataclass(frozen=True)
class Example:
    """One test image for the heat-map figure."""

    frame: NDArray[np.uint8]
    """uint8 (S, S, 3), BGR."""
    mask: NDArray[np.uint8]
    """uint8 (S, S), 0 or 1; all 0 on a good part."""
    category: str
    """Kind of part."""
    defect: str
    """'good' or the defect's name."""
    maps: Mapping[str, NDArray[np.float32]]
    """Variant -> float32 (S, S)."""
    scores: Mapping[str, float]
    """Variant -> score."""


@dataclass(frozen=True)
class DemoResult:
    """Everything the report shows."""

    variants: Mapping[str, VariantResult]
    """By name, as in `VARIANTS`."""
    categories: tuple[str, ...]
    """Kind of each test image, (N,)."""
    anomalous: NDArray[np.bool_]
    """(N,)."""
    examples: tuple[Example, ...]
    """Defects and good parts."""
    latency_ms: NDArray[np.float64]
    """Frame to detection, one value per streamed frame, warm-up apart."""
    backend: str
    """Engine, version and device of the stream."""
    parity: Parity
    """Of the exported file."""
    threshold: float
    """The manifest's."""
    settings: Mapping[str, Any]
    """Size, iterations, seed, encoder, images per kind, ..."""
    seconds: Mapping[str, float]
    """Wall time of each stage: draw, train, align, export, evaluate, stream, total."""
    machine: Mapping[str, Any]
    """CPU, cores, memory, operating system, versions."""
    line: Path
    """Folder of the drawn line."""
    checkpoint: Path
    """The checkpoint."""
    model: Path
    """The exported model."""
    report: Path
    """Where the report is (to be) written."""
    average_range: tuple[float, float] | None = None
    """Mean and maximum of a normal image's unaligned map, averaged over the training images: what the
    heat-maps of `none` show as 0 and 1. None: taken from the good examples instead."""
    notes: tuple[str, ...] = field(default=())
    """Sentences that the report must show, as the threshold's warning."""
