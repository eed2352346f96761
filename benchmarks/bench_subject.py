"""What is measured: a model file on an engine, and what identifies both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_edge.errors import ConfigError
from cada_edge.runtime.detector import Detector

__all__ = ["Subject", "open_subjects"]

_CPU_TRANSFERS = "none: the engine reads the host's memory"
_GPU_TRANSFERS = "both ways, within the latency"


@dataclass(frozen=True)
class Subject:
    """A model on an engine, loaded."""

    label: str
    """Unique in its report."""
    path: Path
    """The model file."""
    backend: str
    """As it was asked for, one of `cada_edge.runtime.backend.BACKENDS`."""
    detector: Detector
    """Open."""
    threads: int | None
    """As they were asked for; None: the engine's own choice."""

    def identity(self, engine: str) -> dict[str, Any]:
        """Return what the figures depend on, JSON-safe.

        Args:
            engine: What computed, as the verdicts say, with the CUDA graph or why there is none: after a
                pipeline's run the detector has no engine open that could tell.
        """
        manifest = self.detector.manifest
        return {
            "file": self.path.name,
            "sha256": manifest.model_sha256,
            "format": manifest.format,
            "precision": manifest.precision,
            "base": manifest.base,
            "encoder": manifest.encoder,
            "alignment": manifest.alignment,
            "input_hw": list(manifest.input_hw),
            "frame_hw": None if manifest.frame_hw is None else list(manifest.frame_hw),
            "smoothing": dict(manifest.smoothing),
            "recipe": manifest.recipe,
            "exported_with": dict(manifest.versions),
            "build": None if manifest.engine is None else dataclasses.asdict(manifest.engine),
            "engine": engine,
            "backend": engine.split()[0],
            "threads": self.threads,
            "transfers": _CPU_TRANSFERS if manifest.format == "onnx" else _GPU_TRANSFERS,
        }


@contextmanager
def open_subjects(
    models: Sequence[str | Path], backends: Sequence[str] = (), *, threads: int | None = None
) -> Iterator[tuple[Subject, ...]]:
    """Load every model on every backend, and close them all at the end.

    Args:
        models: Model files; the same one twice is a check of the benchmark itself.
        backends: None for 'auto'.
        threads: CPU threads; None for the engine's own choice.

    Raises:
        ConfigError: There is no model, or a backend does not go with one.
        ModelError: A model cannot be loaded.
    """
    if not models:
        raise ConfigError("No model came; wanted at least one. Pass: cada-edge bench model.onnx")
    with ExitStack() as stack:
        opened: list[tuple[Path, str, Detector]] = []
        for model in models:
            for backend in backends or ("auto",):
                detector = Detector(model, backend=backend, threads=threads)
                opened.append((Path(model), backend, stack.enter_context(detector)))
        labels = _labels([(path, detector.backend.split()[0]) for path, _, detector in opened])
        yield tuple(
            Subject(label, path, backend, detector, threads)
            for label, (path, backend, detector) in zip(labels, opened, strict=True)
        )


def _labels(found: Sequence[tuple[Path, str]]) -> list[str]:
    """Name each as shortly as tells them apart: the file, its folder, the engine, a number."""
    files = {path for path, _ in found}
    names = {path.name for path in files}
    labels: list[str] = []
    for path, engine in found:
        label = path.name if len(names) == len(files) else str(Path(path.parent.name, path.name))
        if len({other for same, other in found if same == path}) > 1:
            label = f"{label} ({engine})"
        number, unique = 1, label
        while unique in labels:
            number += 1
            unique = f"{label} #{number}"
        labels.append(unique)
    return labels
