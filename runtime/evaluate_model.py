"""Evaluate an exported model on a data set, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cada_edge.errors import ConfigError, DatasetError
from cada_edge.runtime.datasets import DatasetIndex, Sample
from cada_edge.runtime.detector import Detector
from cada_edge.runtime.evaluate import evaluate
from cada_edge.runtime.images import read_image
from cada_edge.runtime.masks import DEFAULT_CONVENTION

if TYPE_CHECKING:
    from cada_edge.runtime.evaluate import Evaluation

__all__ = ["evaluate_model", "require_test_images"]


def require_test_images(index: DatasetIndex) -> tuple[Sample, ...]:
    """Return the test images.

    Raises:
        DatasetError: There is none.
    """
    if not index.test:
        raise DatasetError(
            f"{index.root} ({index.layout} layout) has no test images; wanted some to evaluate on. "
            "Add anomalous/ (plain folder) or test/ (MVTec layout)."
        )
    return index.test


def evaluate_model(
    path: str | Path,
    index: DatasetIndex,
    *,
    alignment: str | None = None,
    threshold: float | None = None,
    mask_convention: str = DEFAULT_CONVENTION,
    backend: str = "auto",
    threads: int | None = None,
    max_memory_bytes: int | None = None,
    save_maps: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate an exported model on a data set's test images.

    Args:
        path: The model file.
        index: The data set.
        alignment: None, or the model's own: the alignment is part of the file.
        threshold: None for the manifest's.
        mask_convention: How ground-truth masks are resized, see `cada_edge.runtime.masks`.
        backend: As for `Detector`.
        threads: As for `Detector`.
        max_memory_bytes: As for `cada_edge.runtime.evaluate.evaluate`.
        save_maps: Likewise.
        progress: Likewise.

    Returns:
        The metrics, mixed and averaged, and the rates per kind.

    Raises:
        ConfigError: Another alignment than the file's.
        DatasetError: No test images.
        OutputError: The folder for maps holds something already, or a file cannot be written.
    """
    samples = require_test_images(index)
    with Detector(path, backend=backend, threshold=threshold, threads=threads) as detector:
        manifest = detector.manifest
        if alignment not in (None, manifest.alignment):
            raise ConfigError(
                f"alignment {alignment!r} came, but {path} was exported with {manifest.alignment!r}, "
                "which is part of the file. Evaluate the checkpoint instead: "
                f"cada-edge eval checkpoint.pt DATA --alignment {alignment}"
            )

        def predictions() -> Iterator[tuple[float, NDArray[np.float32]]]:
            for sample in samples:
                detection = detector(read_image(sample.image))
                assert detection.anomaly_map is not None
                yield detection.score, detection.anomaly_map

        return evaluate(
            samples,
            predictions(),
            threshold=detector.threshold,
            map_hw=manifest.input_hw,
            mask_convention=mask_convention,
            max_memory_bytes=max_memory_bytes,
            save_maps=save_maps,
            progress=progress,
            protocol={
                "base": manifest.base,
                "encoder": manifest.encoder,
                "alignment": manifest.alignment,
                "engine": detector.backend,
            },
        )
