"""What an engine is to be, checked before any work is done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cada_edge.engine_build import HARDWARE_COMPATIBILITY, TARGETS
from cada_edge.errors import ConfigError
from cada_edge.export.to_int8 import Int8Config, refuse_calibration
from cada_edge.manifest import PRECISIONS

__all__ = ["LARGEST_BATCH", "EngineConfig"]

LARGEST_BATCH = 64
"""Most frames at once that our graphs are exported for."""


@dataclass(frozen=True)
class EngineConfig:
    """How to build an engine."""

    target: str = "tensorrt"
    """Library to build for, one of `TARGETS`."""
    precision: str | None = None
    """Of the networks, one of `PRECISIONS`; None: fp16 from a checkpoint, an ONNX file's own from that."""
    batch: tuple[int, int, int] = (1, 1, 1)
    """Smallest, best and largest number of frames at once."""
    frame_hw: tuple[int, int] | None = None
    """Height and width of the camera's frames, in pixels; as in `ExportConfig`."""
    alignment: str | None = None
    """As in `ExportConfig`."""
    calibration: Path | None = None
    """For int8, from a checkpoint or an fp32 ONNX file: as in `Int8Config`."""
    calibration_images: int = Int8Config.calibration_images
    """As in `Int8Config`."""
    backend: str = "auto"
    """Engine that runs the graph on the CPU for its parity; 'auto' is ONNX Runtime here."""
    workspace_gib: float | None = None
    """Most scratch memory on the GPU, in GiB; None for no limit of ours."""
    timing_cache: Path | None = None
    """File that keeps TensorRT's measurements of kernels from build to build; None for none."""
    optimization_level: int | None = None
    """0 to 5: how long the library searches; None for its own."""
    compute_capabilities: tuple[str, ...] = ()
    """For RTX: of the GPUs to build for, as '8.6'; empty for this machine's own."""
    hardware_compatibility: str = "none"
    """For TensorRT, one of `HARDWARE_COMPATIBILITY`."""
    accepted_warnings: tuple[str, ...] = ()
    """Parts of warnings of the ONNX parser that are known to be harmless; any other one ends the build."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("target", self.target, TARGETS),
            ("precision", self.precision, (None, *PRECISIONS)),
            ("hardware compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITY),
        ):
            if value not in known:
                wanted = ", ".join(str(item) for item in known if item is not None)
                raise ConfigError(f"{name} {value!r} came; wanted one of {wanted}.")
        smallest, best, largest = self.batch
        if not 1 <= smallest <= best <= largest <= LARGEST_BATCH:
            raise ConfigError(
                f"batch {smallest},{best},{largest} came; wanted smallest, best and largest number of frames "
                f"in this order, from 1 to {LARGEST_BATCH}. Pass --batch 1, or --batch 1,4,8."
            )
        if self.workspace_gib is not None and not 0 < self.workspace_gib <= 1024:
            raise ConfigError(
                f"workspace {self.workspace_gib} came; wanted GiB of the GPU's memory. Pass --workspace 2."
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(
                f"optimisation level {self.optimization_level} came; wanted 0 to 5. Pass --opt-level 3."
            )
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise ConfigError(
                    f"compute capability {capability!r} came; wanted numbers as 8.6. The box's own is shown "
                    "there by: cada-edge doctor"
                )
        refuse_calibration(self.precision, self.calibration)
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        """Refuse options that the target has not: nothing must seem to come from them."""
        of_other = {
            "--compute-capability": (bool(self.compute_capabilities), "rtx", "builds for this machine's GPU"),
            "--hardware-compat": (self.hardware_compatibility != "none", "tensorrt", "has no such level"),
            "--timing-cache": (self.timing_cache is not None, "tensorrt", "measures no kernels"),
        }
        for option, (was_given, target, reason) in of_other.items():
            if was_given and self.target != target:
                raise ConfigError(
                    f"{option} came with --target {self.target}, which {reason}; wanted it with --target "
                    f"{target} only. Leave it out, or pass --target {target}."
                )
