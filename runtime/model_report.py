"""What a model file is, and whether this machine runs it: what `cada-edge inspect` shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cada_edge.errors import CadaEdgeError
from cada_edge.manifest import Manifest
from cada_edge.runtime.backend import choose_backend
from cada_edge.runtime.backend_tensorrt import TensorRTBackend
from cada_edge.runtime.engine_check import why_not
from cada_edge.runtime.engine_layers import EngineLayer, layers_of

__all__ = ["ModelReport", "report_on"]


@dataclass(frozen=True)
class ModelReport:
    """A model file, as its manifest and this machine see it."""

    manifest: Manifest
    """Checked against the file."""
    takes: str
    """Its input, in words."""
    gives: str
    """Its outputs, in words."""
    runs_here: bool
    """Whether nothing on this machine is against it."""
    why_not: str | None
    """What is against it, and what to do; None where it runs here."""
    runs_on: str | None
    """Of an engine that runs here: library, GPU, CUDA binding, and whether a CUDA graph is used, or why
    not; else None."""
    layers: tuple[EngineLayer, ...] | None
    """Of an engine that runs here, as the engine inspector tells them; else None."""
    notes: tuple[str, ...]
    """What the fields do not say by themselves."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values: the manifest's fields, and this machine's beside them."""
        return {
            **dataclasses.asdict(self.manifest),
            "takes": self.takes,
            "gives": self.gives,
            "runs_here": self.runs_here,
            "why_not": self.why_not,
            "runs_on": self.runs_on,
            "layers": None if self.layers is None else [layer._asdict() for layer in self.layers],
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """Write it for people."""
        fields = {**dataclasses.asdict(self.manifest), "takes": self.takes, "gives": self.gives}
        lines = [f"{name:20}{value}" for name, value in fields.items()]
        if self.layers is not None:
            kinds = Counter(" and ".join(layer.precisions) or "other" for layer in self.layers)
            told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            lines.append(f"{'layers':20}{len(self.layers)}: {told}")
        on = "" if self.runs_on is None else f", on {self.runs_on}"
        lines.append(f"{'runs here':20}{f'yes{on}' if self.runs_here else f'no. {self.why_not}'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def report_on(path: str | Path) -> ModelReport:
    """Examine a model file. An engine that fits this machine is opened, which runs it twice on black frames.

    Args:
        path: The model file; its manifest lies beside it.

    Raises:
        ModelNotFoundError: There is no model file.
        ManifestError: The manifest is missing or damaged.
        ModelMismatchError: The file is not the one that the manifest describes.
    """
    path = Path(path)
    manifest = Manifest.read(path)
    manifest.check_model_file(path)
    reason: CadaEdgeError | None = None
    runs_on: str | None = None
    layers: tuple[EngineLayer, ...] | None = None
    try:
        if manifest.engine is None:
            choose_backend(path)
        else:
            reason = why_not(path)
            if reason is None:
                runs_on, layers = _opened(path)
    except CadaEdgeError as error:
        reason = error
    height, width = manifest.frame_hw or manifest.input_hw
    side_h, side_w = manifest.input_hw
    return ModelReport(
        manifest=manifest,
        takes=f"frames: uint8 (N, {height}, {width}, 3), BGR{_batch(manifest)}",
        gives=f"score: float32 (N,), anomaly_map: float32 (N, {side_h}, {side_w}), stats: float32 (N, 2)",
        runs_here=reason is None,
        why_not=None if reason is None else str(reason),
        runs_on=runs_on,
        layers=layers,
        notes=tuple(_notes(path, manifest)),
    )


def _opened(path: Path) -> tuple[str, tuple[EngineLayer, ...]]:
    """Open an engine; whether a CUDA graph can be captured is known only once it has run."""
    backend = TensorRTBackend(path)
    backend.open()
    try:
        return backend.description, tuple(layers_of(backend.layer_information()))
    finally:
        backend.close()


def _batch(manifest: Manifest) -> str:
    if manifest.engine is None:
        return ""
    smallest, best, largest = manifest.engine.batch
    if smallest == largest:
        return f", N = {smallest}"
    return f", N from {smallest} to {largest}, fastest with {best}"


def _notes(path: Path, manifest: Manifest) -> list[str]:
    notes = []
    if manifest.frame_hw is not None and manifest.format == "onnx":
        notes.append(
            f"The graph resizes frames of {manifest.frame_hw[0]}x{manifest.frame_hw[1]} itself, which is "
            "meant for a GPU. On a CPU OpenCV resizes faster: export without --frame-size there."
        )
    if manifest.engine is not None and not manifest.engine.executed:
        notes.append(
            "The engine was built where it could not be run: its parity is its graph's, on a CPU. On the "
            f"machine that is to run it: cada-edge verify {path.name}"
        )
    return notes
