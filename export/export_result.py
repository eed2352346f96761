"""What an export to ONNX wrote, from a checkpoint or from an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cada_edge.export.speed_ratio import SpeedRatio
from cada_edge.manifest import Parity
from cada_edge.quantization import Quantization

__all__ = ["ExportResult"]


@dataclass(frozen=True)
class ExportResult:
    """What the export wrote."""

    model: Path
    """The model file."""
    manifest: Path
    """Its manifest."""
    reference: Path
    """Its reference file."""
    parity: Parity
    """How far it is from PyTorch."""
    threshold: float | None
    """The manifest's threshold."""
    quantization: Quantization | None = None
    """How it was quantised; None in another precision than int8."""
    speed: tuple[SpeedRatio, ...] = ()
    """Of an INT8 file: how many times faster than the fp32 one it is here, on each installed engine."""
